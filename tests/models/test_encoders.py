"""The bounds of what a head may ask for."""

import math

import pytest
import torch

from evae import EVAE, HVAE, GaussianVAE, PowerSphericalVAE
from tests.models.families import SHAPE


def head(model):
    return dict(model.encoder.named_children()).get("log_scale") or model.encoder.concentration


@pytest.mark.parametrize(
    ("model", "outside", "sign"),
    [
        (EVAE(SHAPE, latent_dim=2), -30.0, -1),  # the penalty falls with r
        (EVAE(SHAPE, latent_dim=2, prior="gaussian", objective="elbo"), 30.0, 1),
        (GaussianVAE(SHAPE, latent_dim=2), -30.0, -1),  # the KL falls with σ where it is small
        (GaussianVAE(SHAPE, latent_dim=2), 30.0, 1),
        (HVAE(SHAPE, latent_dim=3), 30.0, 1),  # the KL to the uniform distribution grows with κ
        (PowerSphericalVAE(SHAPE, latent_dim=3), 30.0, 1),
    ],
)
def test_a_latent_beyond_the_bounds_returns(model, outside, sign, images):
    """The divergence has its gradient there, that of the bound."""
    bias = head(model).bias
    with torch.no_grad():
        bias.fill_(outside)
    model(images).divergence.sum().backward()
    assert bias.grad.isfinite().all()
    assert (sign * bias.grad > 0).all()


@pytest.mark.parametrize("bias", [-18.0, -1.0, 0.0, 2.0, 13.0])
def test_spreads_within_the_bounds_are_exp_of_the_head(bias, images):
    model = GaussianVAE(SHAPE, latent_dim=2).eval()
    with torch.no_grad():
        head(model).bias.fill_(bias)
        head(model).weight.mul_(0.1)
    q = model.posterior(images).base_dist
    assert torch.equal(q.scale, head(model)(model.encoder.body(images)).exp())


@pytest.mark.parametrize(("bias", "spread"), [(-1e4, math.exp(-18.42)), (1e4, math.exp(13.82))])
def test_spreads_beyond_the_bounds_are_the_bounds(bias, spread, images):
    model = GaussianVAE(SHAPE, latent_dim=2).eval()
    with torch.no_grad():
        head(model).bias.fill_(bias)
    torch.testing.assert_close(model.posterior(images).base_dist.scale, torch.full((6, 2), spread))
