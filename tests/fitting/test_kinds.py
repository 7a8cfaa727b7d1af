"""Fitted priors of codes whose law is known: densities, samples, spheres."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from evae import AE, EVAE, HVAE, WAE, GaussianVAE
from evae.distributions import VonMisesFisher, parameters_of, select
from evae.errors import ConfigError
from evae.fitting.codes import of_posteriors
from evae.fitting.kinds import check_fittable, fit
from evae.fitting.settings import Density
from evae.models.fitted import FittedPrior

CPU = torch.device("cpu")
QUICK = Density(components=3, fit_epochs=20, fit_batch_size=64, transforms=2, depth=1, width=16)


def vectors(count=400, dim=2, latents="sample"):
    """Codes of two clusters on the line x = y, with Gaussian posteriors of standard deviation 0.3."""
    loc = torch.randn(count, dim) * 0.2 + torch.tensor([2.0, -2.0]).repeat(count // 2)[:, None]
    posterior = Independent(Normal(loc, torch.full_like(loc, 0.3)), 1)
    return codes_of(GaussianVAE((1, 16, 16), latent_dim=dim), posterior, latents)


def directions(dim, count=300):
    """Codes around one direction of the unit sphere."""
    loc = torch.nn.functional.normalize(torch.randn(count, dim) * 0.5 + torch.eye(dim)[0], dim=1)
    return codes_of(HVAE((1, 16, 16), latent_dim=dim), VonMisesFisher(loc, torch.full((count,), 30.0)))


def codes_of(model, posterior, latents="sample"):
    order = torch.randperm(posterior.batch_shape[0])
    return of_posteriors(model, select(posterior, order), latents, 0)


def distribution(prior: FittedPrior, codes, dtype=torch.float64):
    return prior.distribution(lambda: select(codes.posterior, torch.tensor([0])), torch.zeros((), dtype=dtype))


@pytest.mark.parametrize("kind", ["gaussian", "gmm", "kde", "flow"])
@pytest.mark.parametrize("dim", [1, 2])
def test_densities_integrate_to_one(kind, dim):
    codes = vectors(dim=dim)
    prior = distribution(fit(kind, codes, QUICK, CPU), codes, torch.float32)
    steps = 400 if dim == 1 else 160
    axis = torch.linspace(-8, 8, steps + 1)
    points = torch.cartesian_prod(*[axis] * dim).view(-1, dim)
    total = sum(prior.log_prob(part).double().exp().sum().item() for part in points.split(20_000))
    assert total * (16 / steps) ** dim == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", ["gaussian", "gmm", "kde", "flow"])
def test_densities_on_the_circle_integrate_to_one(kind):
    codes = directions(2)
    prior = distribution(fit(kind, codes, QUICK, CPU), codes, torch.float32)
    angle = (torch.arange(4000) + 0.5) * (2 * math.pi / 4000)
    density = prior.log_prob(torch.stack([angle.cos(), angle.sin()], -1)).double().exp()
    assert density.mean().item() * 2 * math.pi == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("kind", ["gaussian", "gmm", "kde", "flow", "vae"])
@pytest.mark.parametrize("dim", [2, 5])
def test_on_a_sphere_samples_stay_on_it(kind, dim):
    codes = directions(dim)
    samples = distribution(fit(kind, codes, QUICK, CPU), codes, torch.float32).sample((200,))
    assert samples.shape == (200, dim)
    assert samples.norm(dim=1) == pytest.approx(1, abs=1e-5)
    assert samples[:, 0].mean() > 0.3


@pytest.mark.parametrize("kind", ["gaussian", "gmm", "kde", "flow", "vae"])
def test_samples_have_the_moments_of_the_codes(kind):
    """To within a fifth of the codes' standard deviation of 2, 6 standard errors of 4,000 draws and more."""
    codes = vectors()
    prior = distribution(fit(kind, codes, QUICK, CPU), codes, torch.float32)
    samples, real = prior.sample((4000,)), codes.drawn_codes(codes.fitted)
    assert (samples.mean(0) - real.mean(0)).abs().max() < 0.4
    assert (samples.std(0) - real.std(0)).abs().max() < 0.4


def test_the_gaussian_has_the_mean_and_the_covariance_of_the_codes():
    codes = vectors(latents="mean")
    prior = fit("gaussian", codes, QUICK, CPU)
    loc = parameters_of(codes.posterior)["loc"][codes.fitted].double()
    expected = torch.distributions.MultivariateNormal(loc.mean(0), loc.T.cov(correction=0))
    assert kl_divergence(distribution(prior, codes), expected) == pytest.approx(0, abs=1e-5)


def test_a_mixture_beats_one_gaussian_on_two_clusters():
    codes = vectors()
    held_out = codes.drawn_codes(codes.held_out)
    scores = {
        kind: distribution(fit(kind, codes, QUICK, CPU), codes).log_prob(held_out.double()).mean()
        for kind in ("gaussian", "gmm", "kde")
    }
    assert scores["gmm"] > scores["gaussian"] + 0.2
    assert scores["kde"] > scores["gaussian"] + 0.2


def test_codes_that_do_not_vary_have_a_density():
    posterior = Independent(Normal(torch.zeros(100, 2), torch.full((100, 2), 1e-20)), 1)
    codes = codes_of(GaussianVAE((1, 16, 16), latent_dim=2), posterior, "mean")
    for kind in ("gaussian", "gmm", "flow", "vae"):
        density = Density(components=1, fit_epochs=1)
        assert distribution(fit(kind, codes, density, CPU), codes, torch.float32).sample((3,)).isfinite().all()


def test_the_kde_is_the_aggregated_posterior_of_the_fitted_images():
    codes = vectors(60)
    prior = fit("kde", codes, QUICK, CPU)
    factor, weight = prior.settings["factor"], prior.settings["background"]
    loc, scale = (parameters_of(codes.posterior)[name][codes.fitted].double() for name in ("loc", "scale"))
    z = torch.randn(7, 1, 2, dtype=torch.float64)
    mean = Normal(loc, factor * scale).log_prob(z).sum(-1).exp().mean(1)
    background = distribution(fit("gaussian", codes, QUICK, CPU), codes).log_prob(z[:, 0]).exp()
    expected = ((1 - weight) * mean + weight * background).log()
    assert distribution(prior, codes).log_prob(z[:, 0]) == pytest.approx(expected, abs=1e-9)


def test_the_second_stage_has_no_density():
    codes = vectors(60)
    prior = distribution(fit("vae", codes, Density(fit_epochs=1), CPU), codes, torch.float32)
    with pytest.raises(NotImplementedError, match="no density"):
        prior.log_prob(torch.zeros(1, 2))


def test_one_seed_gives_one_prior():
    for kind in ("gmm", "flow", "vae"):
        codes = vectors(60)
        first, again = (fit(kind, codes, QUICK, CPU).content() for _ in range(2))
        assert first == again


@pytest.mark.parametrize("family", [AE, WAE])
def test_a_kde_needs_a_density(family):
    with pytest.raises(ConfigError, match=rf"this {family.__name__} have none .*take --kind gmm"):
        check_fittable("kde", family((1, 16, 16), latent_dim=2))
    with pytest.raises(ConfigError, match="take --kind gmm"):
        check_fittable("kde", EVAE((1, 16, 16), latent_dim=2, kernel="spherical_epanechnikov"))
    check_fittable("kde", EVAE((1, 16, 16), latent_dim=2))
