"""Samplers have the law of the distribution that they stand for."""

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform

from evae import HVAE
from evae.distributions import (
    KERNELS,
    AggregatedPosterior,
    KernelPosterior,
    MultivariateStudentT,
    Stereographic,
    VonMisesFisher,
    WithBackground,
    with_parameters,
)
from evae.errors import ConfigError
from evae.exporting import samplers
from evae.exporting.samplers import sampler_of
from evae.models.fitted import make_flow
from evae.models.second_stage import SecondStage, SecondStagePrior
from tests.models.families import FAMILIES, SHAPE

COUNT = 20_000


def drawn(sampler):
    return sampler(torch.rand(COUNT, sampler.uniforms), torch.randn(COUNT, sampler.normals))


def check_law(prior, draws=None):
    """Kolmogorov and Smirnov's statistic of each coordinate, and of a projection that mixes them."""
    with torch.no_grad():
        own, other = drawn(sampler_of(prior)), prior.sample((COUNT,)) if draws is None else draws
    assert own.shape == other.shape
    mixed = torch.linspace(1, 2, own.shape[1])
    columns = zip([*own.T, own @ mixed], [*other.T, other @ mixed], strict=True)
    for a, b in ((first.sort().values, second.sort().values) for first, second in columns):
        values = torch.cat([a, b])
        gap = (torch.searchsorted(a, values, right=True) - torch.searchsorted(b, values, right=True)).abs().max()
        assert gap / COUNT < 2.5 / (COUNT / 2) ** 0.5  # exceeded by chance once in 270,000


@pytest.mark.parametrize("name", FAMILIES)
def test_own_priors(name):
    check_law(FAMILIES[name](SHAPE, latent_dim=3).eval().prior())


@pytest.mark.parametrize("kernel", KERNELS.values())
def test_kernels(kernel):
    check_law(Independent(kernel(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.1])), 1))


def test_gaussian_and_mixture():
    factors = torch.tensor([[[1.0, 0.0], [0.9, 0.2]], [[0.3, 0.0], [-1.0, 1.0]]])
    components = MultivariateNormal(torch.tensor([[0.0, 1.0], [2.0, -2.0]]), scale_tril=factors)
    check_law(MultivariateNormal(components.loc[0], scale_tril=factors[0]))
    check_law(MixtureSameFamily(Categorical(torch.tensor([0.25, 0.75])), components))


def aggregated(prior=None):
    loc, scale = torch.tensor([[0.0, 1.0], [2.0, -2.0], [4.0, 0.5]]), torch.tensor([[1.0, 0.1]]).expand(3, 2)
    if prior is None:
        return AggregatedPosterior(Independent(Normal(loc, scale), 1))
    kernel = KERNELS["triweight"](loc, scale)
    return AggregatedPosterior(Independent(KernelPosterior(kernel, prior, bandwidth=0.4), 1), factor=2)


def test_kde():
    check_law(aggregated())
    for prior in (Uniform(-0.5, 0.5), Normal(0.0, 0.3)):
        main = aggregated(prior)
        check_law(main)
        check_law(WithBackground(main, MultivariateNormal(torch.ones(2), torch.eye(2)), 0.2))


def test_a_large_kde_is_cut(monkeypatch):
    monkeypatch.setattr(samplers, "MAX_COMPONENTS", 2)
    sampler = sampler_of(aggregated())
    assert sampler.note == "of 2 of its 3 posteriors"
    assert drawn(sampler)[:, 0].max() < 8


def test_charts():
    base = MultivariateNormal(torch.zeros(2), 0.3 * torch.eye(2))
    shifted = AffineTransform(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0]), event_dim=1)
    check_law(TransformedDistribution(base, [shifted]))
    check_law(TransformedDistribution(base, [Stereographic(torch.tensor([0.0, 0.6, 0.8]))]))


def test_second_stage():
    check_law(SecondStagePrior(SecondStage(2, depth=2, width=8)))


@pytest.mark.parametrize("flow", ["maf", "coupling-splines"])
def test_flows(flow):
    check_law(make_flow(3, flow, transforms=2, depth=1, width=8).eval().requires_grad_(False)())


def test_laws_without_a_sampler_are_named():
    model = HVAE(SHAPE, latent_dim=3).eval()
    q = with_parameters(model.example_posterior(), {"loc": torch.eye(3), "concentration": torch.ones(3)})
    laws = (AggregatedPosterior(q), Independent(StudentT(torch.ones(2)), 1), VonMisesFisher(torch.eye(3)[0], 1.0))
    for law, name in zip(laws, ("VonMisesFisher", "StudentT", "VonMisesFisher"), strict=True):
        with pytest.raises(ConfigError, match=rf"draws of a {name} are not a known function.*--kind gmm"):
            sampler_of(law)
    with pytest.raises(ConfigError, match="4.5 degrees of freedom, no whole number, needs draws of a gamma"):
        sampler_of(MultivariateStudentT(4.5, torch.zeros(2), torch.ones(2)))
