"""The bounds of what a head may ask for."""

import math

import pytest
import torch

from evae import EVAE, HVAE, GaussianVAE, PowerSphericalVAE
from evae.distributions import posterior_spread
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


@pytest.mark.parametrize("infinite", [-math.inf, math.inf])
@pytest.mark.parametrize("build", [EVAE, GaussianVAE, HVAE, PowerSphericalVAE])
def test_an_infinite_output_gives_the_bound(build, infinite, images):
    """Of one head that overflowed: the posterior and all gradients stay finite."""
    model, bounded = build(SHAPE, latent_dim=3), []
    for value in (infinite, math.copysign(1e30, infinite)):
        with torch.no_grad():
            head(model).bias.fill_(value)
        model.zero_grad()
        torch.manual_seed(0)
        q = model.posterior(images)
        z = q.rsample()
        terms = model.objective.divergence(model, q)
        (terms.sum() + z.sum()).backward()
        assert z.isfinite().all()
        assert terms.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        bounded.append(posterior_spread(q)[1])
    assert torch.equal(*bounded)


def test_an_undefined_output_stays_undefined(images):
    """So that training stops with an error."""
    model = GaussianVAE(SHAPE, latent_dim=2)
    with torch.no_grad():
        head(model).bias.fill_(math.nan)
    assert posterior_spread(model.posterior(images))[1].isnan().all()


def test_the_bounds_are_compiled_in_one_graph(images):
    """torch.compile traces them without a break."""
    encoder = GaussianVAE(SHAPE, latent_dim=2).encoder.eval()
    traced = torch.compile(encoder.loc_scale, backend="eager", fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(traced(images), encoder.loc_scale(images), strict=True))


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
