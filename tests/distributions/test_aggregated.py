"""The aggregated posterior against the mean over all posteriors, quadrature and its own draws."""

import copy
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, Uniform
from torch.nn import functional

from evae.distributions import (
    KERNELS,
    AggregatedPosterior,
    KernelPosterior,
    PointMass,
    PowerSpherical,
    SphericalEpanechnikov,
    SphericalPosterior,
    VonMisesFisher,
    aggregated,
    screening,
    widened,
)
from evae.distributions.quadrature import legendre

DOUBLE = torch.float64
PRIORS = ("uniform", "normal")
SPHERES = {"vmf": VonMisesFisher, "power-spherical": PowerSpherical}
LIGHT = [name for name, kernel in KERNELS.items() if not kernel.heavy_tailed]
KINDS = [*itertools.product(KERNELS, PRIORS), "normal", *SPHERES]
LIGHT_KINDS = [kind for kind in KINDS if kind[0] != "student"]


def posteriors(kind, n, d, width, dtype=DOUBLE, seed=0, spread=0.1):
    """n posteriors with centres of standard deviation about 1 and widths about ``width``."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(n, d, dtype=DOUBLE, generator=generator)
    scale = width * (0.4 * torch.randn(n, d, dtype=DOUBLE, generator=generator)).exp()
    if kind in SPHERES:
        concentration = (1 / scale[:, 0].square()).clamp(1e-3, 1e5)
        unit = functional.normalize(loc.to(dtype), dim=-1)
        return SPHERES[kind](unit, concentration.to(dtype), validate_args=False)
    loc, scale = loc.to(dtype), scale.to(dtype)
    if kind == "normal":
        return Independent(Normal(loc, scale), 1)
    name, prior = kind
    length = torch.linspace(0.5, 1.5, d, dtype=dtype) * spread
    p = Uniform(-length / 2, length / 2) if prior == "uniform" else Normal(torch.zeros_like(length), length)
    return Independent(KernelPosterior(KERNELS[name](2 * loc, scale), p, 0.5, validate_args=False), 1)


def brute_force(components, value):
    """ln of the mean density, over all pairs."""
    if isinstance(components, Independent):
        components = copy.copy(components)
        components._validate_args = False
    every = components.log_prob(value.double().unsqueeze(-2)).double()
    return torch.logsumexp(every, -1) - math.log(every.shape[-1])


def some_values(q, components, seed=1):
    """Draws, points between two draws, far from all, and a centre."""
    d = q.event_shape[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draws = q.sample((8,))
        away = torch.randn(3, d, dtype=draws.dtype)
    centre = components.mean[:1]
    if isinstance(components, VonMisesFisher | PowerSpherical):
        centre, away = components.loc[:1], functional.normalize(away, dim=-1)
        between = functional.normalize(draws[:3] + draws[3:6], dim=-1)
        return torch.cat([draws, between, away, centre, -centre])
    return torch.cat([draws, (draws[:3] + draws[3:6]) / 2, away, 30 * away, 1e4 * away, centre])


def assert_equal_to_brute_force(components, value, factor=1.0):
    q = AggregatedPosterior(components, factor, validate_args=False)  # values on the sphere may be float32
    expected = brute_force(widened(components, factor), value)
    got = q.log_prob(value.double())
    assert got.dtype == DOUBLE
    assert not got.isnan().any()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize(("width", "d"), [(1e-8, 2), (1e-3, 3), (0.1, 9), (1.0, 20), (30.0, 3), (1e6, 2)])
def test_equals_brute_force(kind, width, d):
    components = posteriors(kind, 40, d, width)
    assert_equal_to_brute_force(components, some_values(AggregatedPosterior(components), components))


@pytest.mark.parametrize("kind", [("epanechnikov", "uniform"), ("laplace", "uniform"), "normal", *SPHERES], ids=str)
@pytest.mark.parametrize("width", [0.02, 0.3, 1.5])
def test_equals_brute_force_in_64_dimensions(kind, width):
    components = posteriors(kind, 300, 64, width)
    assert_equal_to_brute_force(components, some_values(AggregatedPosterior(components), components))


@given(
    kind=st.sampled_from([*itertools.product(("uniform", "epanechnikov", "logistic"), PRIORS), "normal", *SPHERES]),
    n=st.integers(1, 60),
    d=st.integers(2, 12),
    log_width=st.floats(-8, 4),
    spread=st.floats(0.01, 3),
    factor=st.floats(0.3, 3),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float32, DOUBLE]),
)
@settings(max_examples=30, deadline=None)
def test_screening_leaves_nothing_out(kind, n, d, log_width, spread, factor, seed, dtype):
    components = posteriors(kind, n, d, math.exp(log_width), dtype, seed, spread)
    value = some_values(AggregatedPosterior(components, factor), components, seed)
    if dtype == torch.float32 and (kind == "normal" or kind in SPHERES):  # whose own log_prob has float32 precision
        tensors = {"loc": components.mean.double(), "scale": components.stddev.double()}
        if kind in SPHERES:
            components = type(components)(
                components.loc.double(), components.concentration.double(), validate_args=False
            )
        else:
            components = Independent(Normal(**tensors), 1)
    assert_equal_to_brute_force(components, value, factor)


@pytest.mark.parametrize("kind", [("epanechnikov", "uniform"), ("triangular", "normal"), "normal", *SPHERES], ids=str)
def test_many_parts(kind, monkeypatch):
    """Values, posteriors and pairs are taken some at a time, to the same result."""
    components = posteriors(kind, 50, 5, 0.5)
    value = some_values(AggregatedPosterior(components), components)
    monkeypatch.setattr(aggregated, "_VALUES", 3)
    monkeypatch.setattr(aggregated, "_ROWS", 7)
    monkeypatch.setattr(screening, "_ROWS", 7)
    monkeypatch.setattr(screening, "_BLOCK", 2)
    monkeypatch.setattr(screening.Screen, "elements", 20)
    monkeypatch.setattr(screening.MarginalScreen, "elements", 20)
    assert_equal_to_brute_force(components, value)


def test_most_pairs_are_never_evaluated(monkeypatch):
    """Of tight posteriors one matters to a draw: beside the four candidates per value."""
    for kind in LIGHT_KINDS:
        q = AggregatedPosterior(posteriors(kind, 500, 16, 0.02))
        evaluated = []
        exact = q._screen.log_prob
        monkeypatch.setattr(q._screen, "log_prob", lambda v, r, f=exact, e=evaluated: e.append(len(r)) or f(v, r))
        q.log_prob(q.sample((20,)))
        assert sum(evaluated) <= 20 * (4 + 3), kind


@pytest.mark.parametrize("kind", LIGHT_KINDS[:-3], ids=str)
def test_bounds_of_marginals(kind):
    """peak - slope · max(0, t - knee) is above ln q(t), whatever the width, and not by much at the centre."""
    components = posteriors(kind, 200, 3, 1.0, seed=3)
    base = components.base_dist
    kernel = type(base.kernel)(base.kernel.loc, 10 ** torch.linspace(-6, 6, 600, dtype=DOUBLE).view(200, 3))
    base = KernelPosterior(kernel, base.prior, base.bandwidth, validate_args=False)
    width, spread = base.bandwidth * kernel.scale, base.support_length
    peak, slope, knee = screening._Marginals(base)(width, spread)
    at_centre = base.log_density_at(torch.zeros_like(width))
    assert ((peak - at_centre) >= 0).all()
    assert ((peak - at_centre) <= 0.011).all()
    for factor in (0.0, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0, 20.0):
        for distance in (factor * width, factor * spread, width + factor * spread):
            assert (base.log_density_at(distance) <= peak - slope * (distance - knee).clamp(min=0)).all()


@pytest.mark.parametrize("name", LIGHT)
def test_kernels_are_log_concave(name):
    """What the bounds of marginals need of a kernel."""
    t = torch.linspace(-0.999, 0.999, 2001, dtype=DOUBLE) * (1 if KERNELS[name].bounded else 40)
    log_density = KERNELS[name]._log_density(t)
    assert (log_density.diff(n=2) <= 1e-12).all()


@pytest.mark.parametrize("kind", KINDS[:-2], ids=str)
@pytest.mark.parametrize("width", [0.2, 1.5])
def test_integral_on_the_line(kind, width):
    components = posteriors(kind, 6, 1, width, spread=0.3)
    heavy = kind != "normal" and not KERNELS[kind[0]].bounded
    x = torch.linspace(-1, 1, 6_001, dtype=DOUBLE) * (6 + 12 * width * (4 if heavy else 1))
    density = AggregatedPosterior(components).log_prob(x.unsqueeze(1)).exp()
    # steps of a box kernel with a uniform prior are kinks of the density, a trapezoid
    assert torch.trapezoid(density, x).item() == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize("kind", [("epanechnikov", "uniform"), ("gaussian", "normal"), "normal"], ids=str)
def test_integral_on_the_plane(kind):
    components = posteriors(kind, 5, 2, 0.8, spread=0.5)
    x = torch.linspace(-8, 8, 161, dtype=DOUBLE)
    density = AggregatedPosterior(components).log_prob(torch.cartesian_prod(x, x)).exp()
    assert density.sum().item() * (x[1] - x[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("kind", SPHERES)
@pytest.mark.parametrize("width", [0.1, 1.0])
def test_integral_on_the_circle_and_the_sphere(kind, width):
    angles = 2 * math.pi * torch.arange(400, dtype=DOUBLE) / 400
    circle = torch.stack([angles.cos(), angles.sin()], -1)
    density = AggregatedPosterior(posteriors(kind, 5, 2, width)).log_prob(circle).exp()
    assert density.mean().item() * 2 * math.pi == pytest.approx(1, abs=1e-9)
    nodes, weights = legendre(80, angles)
    height = (2 * nodes - 1).unsqueeze(1)
    sphere = torch.cat([(1 - height.square()).sqrt().unsqueeze(-1) * circle, height.expand(-1, 400).unsqueeze(-1)], -1)
    density = AggregatedPosterior(posteriors(kind, 5, 3, width)).log_prob(sphere).exp()
    assert (weights @ density.mean(1)).item() * 4 * math.pi == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_moments(kind):
    """Mean and variance of the mixture; the draws' are within 5.5 standard errors: fails for one seed in 10^6."""
    components = posteriors(kind, 9, 2, 0.5, spread=0.5)
    q = AggregatedPosterior(components, 1.3)
    wide = widened(components, 1.3)
    torch.testing.assert_close(q.mean, wide.mean.mean(0))
    second = (wide.variance + wide.mean.square()).mean(0)
    torch.testing.assert_close(q.variance, second - q.mean.square())
    torch.manual_seed(0)
    draws = q.sample((40_000,))
    for sample, expected in ((draws, q.mean), ((draws - q.mean).square(), q.variance)):
        error = (sample.mean(0) - expected).abs() / (sample.std(0) / 200)
        assert (error < 5.5).all()


def test_components_are_drawn_uniformly():
    """Counts of 5 components 8,000 times each: within 5.5 standard deviations, one seed in 10^6 fails."""
    q = AggregatedPosterior(Independent(Normal(10 * torch.arange(5.0).unsqueeze(1), 0.1), 1))
    torch.manual_seed(0)
    counts = torch.bincount((q.sample((40_000,)) / 10).round().long().flatten(), minlength=5)
    assert ((counts - 8000).abs() < 5.5 * (8000 * 0.8) ** 0.5).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("width", [1e-8, 1e-3, 1.0, 1e6])
def test_float32_draws_have_a_density(kind, width):
    q = AggregatedPosterior(posteriors(kind, 30, 4, width, torch.float32))
    torch.manual_seed(0)
    draws = q.sample((300,))
    log_density = q.log_prob(draws)
    assert draws.dtype == log_density.dtype == torch.float32
    assert log_density.isfinite().all()
    assert q.mean.isfinite().all()
    assert q.variance.isfinite().all()


@pytest.mark.parametrize(
    "kind", [("epanechnikov", "uniform"), ("triangular", "normal"), ("logistic", "uniform"), "normal"], ids=str
)
def test_gradient_in_the_value(kind):
    q = AggregatedPosterior(posteriors(kind, 4, 2, 1.0, spread=0.5))
    value = q.components.mean[:2] + torch.tensor([[0.1, -0.02], [0.03, 0.04]], dtype=DOUBLE)
    assert torch.autograd.gradcheck(q.log_prob, value.requires_grad_())


@pytest.mark.parametrize("kind", SPHERES)
def test_gradient_on_the_sphere(kind):
    q = AggregatedPosterior(posteriors(kind, 4, 3, 0.7), validate_args=False)
    value = functional.normalize(torch.tensor([[0.1, -0.2, 0.5]], dtype=DOUBLE), dim=-1)
    assert torch.autograd.gradcheck(q.log_prob, value.requires_grad_())


def test_gradient_outside_all_supports_is_zero():
    q = AggregatedPosterior(posteriors(("epanechnikov", "uniform"), 4, 2, 0.1))
    value = torch.tensor([[50.0, 0.0], [*q.components.mean[0]]], dtype=DOUBLE, requires_grad=True)
    log_density = q.log_prob(value)
    assert log_density[0] == -math.inf
    (gradient,) = torch.autograd.grad(log_density[1] + 0 * log_density[0].clamp(min=-1), value)
    assert gradient.isfinite().all()
    assert (gradient[0] == 0).all()


def test_extreme_values():
    for kind in KINDS[:-2]:
        q, is_heavy = AggregatedPosterior(posteriors(kind, 5, 2, 0.5), validate_args=False), kind[0] == "student"
        value = torch.tensor([[1e12, 0.0], [1e200, 0.0], [math.inf, 0.0], [math.nan, 0.0]], dtype=DOUBLE)
        log_density = q.log_prob(value)
        assert log_density[0] < (-100 if is_heavy else -1e10)
        assert log_density[1] < (-2000 if is_heavy else -1e190)
        assert log_density[2] == -math.inf
        assert log_density[3].isnan()


def test_the_contract_of_torch():
    components = posteriors("normal", 6, 3, 0.5)
    q = AggregatedPosterior(components)
    assert (q.batch_shape, q.event_shape, q.has_rsample) == ((), (3,), False)
    assert q.sample().shape == (3,)
    assert q.sample((2, 4)).shape == (2, 4, 3)
    assert q.log_prob(q.sample((2, 4))).shape == (2, 4)
    assert q.support.check(q.sample((2,))).all()
    with pytest.raises(NotImplementedError):
        q.rsample()
    wide = q.expand((5, 1))
    assert wide.batch_shape == (5, 1)
    assert wide.sample((2,)).shape == (2, 5, 1, 3)
    assert wide.mean.shape == wide.variance.shape == (5, 1, 3)
    value = torch.zeros(4, 3, dtype=DOUBLE)
    torch.testing.assert_close(wide.log_prob(value), q.log_prob(value).expand(5, 4))
    with pytest.raises(ValueError, match="within the support"):
        AggregatedPosterior(components, validate_args=True).log_prob(torch.full((3,), math.nan, dtype=DOUBLE))
    sphere = AggregatedPosterior(posteriors("vmf", 3, 3, 0.5))
    assert sphere.support.check(sphere.sample((2,))).all()
    with pytest.raises(ValueError, match="within the support"):
        sphere.log_prob(torch.ones(3, dtype=DOUBLE))


def test_no_gradient_reaches_the_model():
    loc = torch.zeros(2, 3, requires_grad=True)
    bandwidth = torch.tensor(0.5, requires_grad=True)
    kernel = KERNELS["epanechnikov"](loc, 1.0)
    q = AggregatedPosterior(Independent(KernelPosterior(kernel, Normal(0.0, 1.0), bandwidth), 1))
    assert not q.log_prob(torch.zeros(3)).requires_grad
    assert not q.mean.requires_grad


def test_bad_components():
    with pytest.raises(ValueError, match="at least one posterior"):
        AggregatedPosterior(posteriors("normal", 0, 3, 1.0))
    with pytest.raises(ValueError, match="batch shape"):
        AggregatedPosterior(Independent(Normal(torch.zeros(2, 3, 4), 1.0), 1))
    with pytest.raises(ValueError, match="positive and finite"):
        AggregatedPosterior(posteriors("normal", 2, 3, 1.0), 0.0)
    with pytest.raises(TypeError, match="not a posterior"):
        AggregatedPosterior(Normal(torch.zeros(2), 1.0))
    prior = Independent(Normal(torch.zeros(3), 1.0), 1)
    spherical = SphericalPosterior(SphericalEpanechnikov(torch.zeros(2, 3), 1.0), prior, 0.5)
    for without in (PointMass(torch.zeros(2, 3)), spherical):
        with pytest.raises(NotImplementedError, match="has no density"):
            AggregatedPosterior(without)
