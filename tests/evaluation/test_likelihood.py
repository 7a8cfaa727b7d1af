"""Importance-weighted bounds where ln p(x) is known, and their refusal where there is none."""

import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

from evae import EVAE, VAE, GaussianVAE, evaluate, train
from evae.evaluation.likelihood import importance_weighted_bound, share_outside
from evae.models import Elbo
from evae.models.encoders import KernelEncoder
from evae.models.priors import NormalPrior

SHAPE = (1, 2, 2)
NOISE = 0.5


class LinearPixels(nn.Module):
    """x = map + noise."""

    def forward(self, maps):
        return Independent(Normal(maps, NOISE), 3)


class ExactEncoder(nn.Module):
    """The posterior of a linear-Gaussian model, a little too wide and off its centre."""

    def __init__(self, weight, prior):
        super().__init__()
        self.weight, self.prior = weight, prior

    def forward(self, images):
        precision = self.weight.T @ self.weight / NOISE**2 + torch.eye(2) / self.prior().stddev[0] ** 2
        covariance = torch.linalg.inv(precision)
        mean = images.flatten(1) @ self.weight / NOISE**2 @ covariance
        return Independent(Normal(mean + 0.1, 1.2 * covariance.diagonal().sqrt().expand_as(mean)), 1)


def linear_model(kernel_posterior):
    """A model with ln p(x) = ln N(x; 0, σ² W Wᵀ + s² I)."""
    weight = torch.tensor([[0.7, 0.1], [-0.3, 0.5], [0.2, 0.2], [0.0, -0.6]], dtype=torch.float64)
    decoder = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Unflatten(1, SHAPE)).double()
    decoder[0].weight.data = weight
    prior = NormalPrior(2, 0.4).double()
    if kernel_posterior:
        kernel = EVAE((1, 16, 16)).encoder.kernel
        encoder = KernelEncoder(nn.Flatten(), SHAPE, 2, kernel, prior, 0.5).double()
        nn.init.zeros_(encoder.loc.weight)
    else:
        encoder = ExactEncoder(weight, prior)
    model = VAE(SHAPE, encoder, prior, decoder, LinearPixels(), Elbo())
    covariance = 0.4**2 * weight @ weight.T + NOISE**2 * torch.eye(4)
    return model, MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance)


@pytest.mark.parametrize("kernel_posterior", [False, True])
def test_the_bound_rises_to_the_known_likelihood(kernel_posterior):
    """To within 6 standard errors over 400 images (missed by one seed in 10^8), where the bias has died out."""
    model, exact = linear_model(kernel_posterior)
    images = exact.sample((400,)).view(-1, *SHAPE)
    known = exact.log_prob(images.flatten(1))
    gaps = {}
    with torch.no_grad():
        for samples in (1, 10, 2000):
            gap = known - importance_weighted_bound(model, images, samples)
            gaps[samples] = gap.mean().item()
            error = gap.std().item() / 20
    assert gaps[1] > gaps[10] > gaps[2000]
    assert abs(gaps[2000]) < 6 * error + 2e-3


def test_with_one_sample_it_is_the_elbo():
    """In the mean, to within 6 standard errors."""
    model = GaussianVAE((1, 16, 16), latent_dim=2).eval()
    images = torch.rand(3, 1, 16, 16).repeat(2000, 1, 1, 1)
    with torch.no_grad():
        terms = model(images)
        elbo = -(terms.reconstruction + terms.divergence).double()
        bound = importance_weighted_bound(model, images, 1)
    difference = (elbo - bound).mean().item()
    assert abs(difference) < 6 * (elbo - bound).std().item() / math.sqrt(len(images))


def test_share_outside():
    images = torch.rand(5, 1, 16, 16)
    assert share_outside(EVAE((1, 16, 16), latent_dim=3).eval(), images, 20) > 0.9
    assert share_outside(EVAE((1, 16, 16), latent_dim=3, prior="gaussian").eval(), images, 20) == 0


def test_evaluate_with_likelihood(blobs, tmp_path, capsys):
    settings = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}
    good = train(blobs, tmp_path / "good", partial(EVAE, latent_dim=2, prior="gaussian"), **settings)
    likelihood = evaluate(good, likelihood=30)["likelihood"]
    assert likelihood["samples"] == 30
    assert likelihood["bound"] == pytest.approx(256 * likelihood["bound_per_dimension"])
    assert likelihood["standard_error"] > 0
    assert json.loads((good / "evaluation.json").read_text())["likelihood"] == likelihood
    assert "ln p(x) ≥" in capsys.readouterr().out

    uniform = train(blobs, tmp_path / "uniform", partial(EVAE, latent_dim=2), **settings)
    likelihood = evaluate(uniform, likelihood=30)["likelihood"]
    assert likelihood.keys() == {"share_outside"}
    assert "no likelihood: the posterior leaves the prior's support" in capsys.readouterr().err.replace("\n", " ")
