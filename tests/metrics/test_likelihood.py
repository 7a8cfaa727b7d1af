"""Importance-weighted bounds where ln p(x) is known, and their refusal where there is none."""

import json
import math
from functools import partial

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Uniform

from evae import EVAE, WAE, GaussianVAE, evaluate, train
from evae.distributions import KERNELS, KernelPosterior
from evae.metrics.likelihood import importance_weighted_bound, share_of_coordinates_outside, share_outside
from evae.models.fitted import FittedPrior
from evae.runs import RunFolder
from evae.runs.evaluation import read_evaluation
from tests.models.linear_gaussian import NOISE, SHAPE, linear_model


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


@pytest.mark.parametrize("kernel_posterior", [False, True])
def test_under_a_fitted_prior_it_rises_to_the_known_likelihood(kernel_posterior):
    """Where p(z) is the fitted N(m, S), p(x) is N(W m, W S Wᵀ + s² I); tolerances as above."""
    model, _ = linear_model(kernel_posterior)
    scale = torch.tensor([[0.3, 0.0], [0.1, 0.5]], dtype=torch.float64)
    mean = torch.tensor([0.2, -0.1], dtype=torch.float64)
    model.attach_prior(FittedPrior("gaussian", {"mean": mean, "scale_tril": scale}))
    weight = model.decoder[0].weight.detach()
    marginal = MultivariateNormal(weight @ mean, weight @ scale @ scale.T @ weight.T + NOISE**2 * torch.eye(4))
    images = marginal.sample((400,)).view(-1, *SHAPE)
    with torch.no_grad():
        bound = importance_weighted_bound(model, images, 2000, prior=model.fitted_prior)
    gap = marginal.log_prob(images.flatten(1)) - bound
    assert abs(gap.mean().item()) < 6 * gap.std().item() / 20 + 2e-3


def test_with_one_sample_it_is_the_elbo():
    """In the mean, to within 6 standard errors."""
    model = GaussianVAE((1, 16, 16), latent_dim=2).eval()
    images = torch.rand(3, 1, 16, 16).repeat(1000, 1, 1, 1)
    with torch.no_grad():
        terms = model(images)
        elbo = -(terms.reconstruction + terms.divergence).double()
        bound = importance_weighted_bound(model, images, 1)
    difference = (elbo - bound).mean().item()
    assert abs(difference) < 6 * (elbo - bound).std().item() / math.sqrt(len(images))


def test_share_outside():
    images = torch.rand(5, 1, 16, 16)
    for prior, low, high in (("uniform", 0.9, 1), ("gaussian", 0, 0)):
        model = EVAE((1, 16, 16), latent_dim=3, prior=prior).eval()
        assert low <= share_outside(model.prior(), model.posterior(images), 20) <= high


def test_share_of_coordinates_outside():
    """Of Unif[-1, 1] + Unif[-1, 1] an eighth is above 1; a whole vector of 16 is outside with probability 0.99."""
    prior = Independent(Uniform(-torch.ones(16), torch.ones(16)), 1)
    q = KernelPosterior(KERNELS["uniform"](torch.zeros(50, 16), 1.0), Uniform(-torch.ones(16), torch.ones(16)), 1.0)
    q = Independent(q, 1)
    assert share_of_coordinates_outside(prior, q, 100) == pytest.approx(0.25, abs=0.01)
    assert share_outside(prior, q, 100) == pytest.approx(1 - 0.75**16, abs=0.01)


def test_evaluate_with_likelihood(blobs, tmp_path, capsys):
    settings = {"epochs": 1, "batch_size": 16, "image_size": 16, "accelerator": "cpu"}
    good = train(blobs, tmp_path / "good", partial(EVAE, latent_dim=2, prior="gaussian"), **settings)
    likelihood = evaluate(good, likelihood=30)["sections"]["likelihood"]
    assert likelihood["settings"] == {"samples": 30}
    (bound,) = likelihood["numbers"]
    assert (bound["name"], bound["better"]) == ("ln p(x) ≥", "higher")
    assert bound["value"] == pytest.approx(256 * likelihood["details"]["bound_per_dimension"])
    assert bound["error"] == pytest.approx(256 * likelihood["details"]["standard_error_per_dimension"])
    assert bound["error"] > 0
    per_image = read_evaluation(RunFolder(good)).per_image("ln p(x) ≥")
    assert (len(per_image), per_image.mean()) == (16, pytest.approx(bound["value"]))
    assert json.loads((good / "evaluation.json").read_text())["sections"]["likelihood"] == likelihood
    assert "ln p(x) ≥" in capsys.readouterr().out

    uniform = train(blobs, tmp_path / "uniform", partial(EVAE, latent_dim=2), **settings)
    likelihood = evaluate(uniform, likelihood=30)["sections"]["likelihood"]
    assert likelihood["details"].keys() == {"share_outside"}
    assert likelihood["numbers"] == []
    assert "under the model prior: the posterior leaves its support" in capsys.readouterr().err.replace("\n", " ")

    point = train(blobs, tmp_path / "point", partial(WAE, latent_dim=2), **settings)
    likelihood = evaluate(point, likelihood=30)["sections"]["likelihood"]
    assert (likelihood["numbers"], likelihood["details"]) == ([], {})
    assert "under the model prior: a point mass has no density" in capsys.readouterr().err.replace("\n", " ")
