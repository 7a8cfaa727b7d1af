"""Kernel posteriors against oracles, high-precision arithmetic, quadrature and their own samples."""

import copy
import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.distributions import Independent, Laplace, Normal, Uniform

from evae.distributions import (
    KERNELS,
    Epanechnikov,
    HypersphericalUniform,
    KernelPosterior,
    PointMass,
    PowerSpherical,
    SphericalEpanechnikov,
    SphericalPosterior,
    VonMisesFisher,
    kernel_penalty,
    posterior_spread,
)
from tests.conftest import oracle

DOUBLE = torch.float64
SIX_SIGMA_RATE = 1e-6


def posterior(loc, scale, bandwidth, support_length, prior="uniform", kernel=Epanechnikov, dtype=DOUBLE):
    """A scalar posterior with a prior of support length (or standard deviation) B."""
    loc, scale, length = (torch.tensor(float(v), dtype=dtype) for v in (loc, scale, support_length))
    p = Uniform(-length / 2, length / 2) if prior == "uniform" else Normal(torch.zeros_like(length), length)
    return KernelPosterior(kernel(loc, scale), p, bandwidth, validate_args=False)


CASES = [case for case in oracle("posterior") if case["kernel"] in KERNELS]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['kernel']}-{c['prior']}-{c['scale']}-{c['support_length']}")
def test_oracle(case):
    q = posterior(*(case[k] for k in ("loc", "scale", "bandwidth", "support_length", "prior")), KERNELS[case["kernel"]])
    assert q.mean.item() == pytest.approx(case["mean"], rel=1e-12, abs=1e-15)
    assert q.variance.item() == pytest.approx(case["variance"], rel=1e-12)
    for z, expected in case["log_prob"]:
        # the oracle is rounded at the 12th decimal
        assert q.log_prob(torch.tensor(z, dtype=DOUBLE)).item() == pytest.approx(expected, abs=2e-11)


def exact_uniform(z, w, length):
    """ln q for centre 0 by the closed CDF, in 80 digits."""
    with mpmath.workdps(80):
        z, w, length = map(mpmath.mpf, (z, w, length))

        def cdf(t):
            t = max(-1, min(1, t))
            return (2 + 3 * t - t**3) / 4

        q = (cdf((z + length / 2) / w) - cdf((z - length / 2) / w)) / length
        return float(mpmath.log(q)) if q > 0 else -math.inf


def exact_normal(z, w, sigma):
    """ln q for centre 0 by truncated normal moments, in 200 digits."""
    with mpmath.workdps(200):
        t, w, s = map(mpmath.mpf, (z, w, sigma))
        a, e = (t - w) / s, (t + w) / s
        m0 = (mpmath.erfc(a / mpmath.sqrt(2)) - mpmath.erfc(e / mpmath.sqrt(2))) / 2
        m1 = mpmath.npdf(a) - mpmath.npdf(e)
        m2 = m0 + a * mpmath.npdf(a) - e * mpmath.npdf(e)
        return float(mpmath.log(3 / (4 * w) * (m0 - (t**2 * m0 - 2 * t * s * m1 + s**2 * m2) / w**2)))


STANDARD = {
    "uniform": lambda t: mpmath.mpf(1) / 2,
    "epanechnikov": lambda t: mpmath.mpf(3) / 4 * (1 - t**2),
    "biweight": lambda t: mpmath.mpf(15) / 16 * (1 - t**2) ** 2,
    "triweight": lambda t: mpmath.mpf(35) / 32 * (1 - t**2) ** 3,
    "triangular": lambda t: 1 - abs(t),
    "tricube": lambda t: mpmath.mpf(70) / 81 * (1 - abs(t) ** 3) ** 3,
    "cosine": lambda t: mpmath.pi / 4 * mpmath.cos(mpmath.pi * t / 2),
    "gaussian": mpmath.npdf,
    "logistic": lambda t: 1 / (mpmath.exp(t) + 2 + mpmath.exp(-t)),
    "laplace": lambda t: mpmath.exp(-abs(t)) / 2,
    "student": lambda t: mpmath.mpf(3) / 8 * (1 + t**2 / 4) ** mpmath.mpf(-2.5),
}
CUMULATIVE = {
    "gaussian": mpmath.ncdf,
    "logistic": lambda t: 1 / (1 + mpmath.exp(-t)),
    "laplace": lambda t: mpmath.exp(t) / 2 if t < 0 else 1 - mpmath.exp(-t) / 2,
    "student": lambda t: (1 + t / mpmath.sqrt(4 + t**2)) ** 2 * (2 - t / mpmath.sqrt(4 + t**2)) / 4,
}


def reference(name, prior, z, w, spread):
    """ln q for centre 0 in 30 digits, z within the kernel's half-width of the centre and then a few spreads."""
    with mpmath.workdps(30):
        z, w, spread = map(mpmath.mpf, (z, w, spread))
        bounded = name not in CUMULATIVE
        if prior == "uniform":
            low, high = (z - spread / 2) / w, (z + spread / 2) / w
            if not bounded:
                with mpmath.workdps(80):
                    return float(mpmath.log((CUMULATIVE[name](high) - CUMULATIVE[name](low)) / spread))
            low, high = max(low, -1), min(high, 1)
            points = sorted({low, high} | ({mpmath.mpf(0)} if low < 0 < high else set()))
            return float(mpmath.log(mpmath.quad(STANDARD[name], points) / spread))
        edge = mpmath.mpf(1 if bounded else 80 if name != "student" else 10**7)
        peaks = (z / w, max(z / w - (spread / w) ** 2, 0))
        cuts = [p + sign * m * spread / w for p in peaks for m in (0, 1, 3, 6, 9, 14) for sign in (-1, 1)]
        cuts += [] if bounded else [sign * m for m in (1, 5, 15, 40, 10**3, 10**5) for sign in (-1, 1)]
        points = sorted({-edge, mpmath.mpf(0), edge} | {c for c in cuts if -edge < c < edge})
        if not bounded and z / w + 14 * spread / w > edge:
            points.append(z / w + 14 * spread / w)

        def integrand(x):
            return STANDARD[name](x) * mpmath.npdf((z - w * x) / spread) / spread

        return float(mpmath.log(mpmath.quad(integrand, points)))


SLOW = {"logistic", "triangular", "triweight", "biweight", "student"}  # beside a Gaussian prior: seconds of mpmath


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        pytest.param(name, prior, marks=[pytest.mark.slow] * (name in SLOW and prior == "gaussian"))
        for name, prior in itertools.product(sorted(KERNELS), ("uniform", "gaussian"))
    ],
)
def test_every_kernel_against_high_precision_quadrature(name, prior):
    for ratio, fraction in itertools.product((1e-6, 1e-2, 0.6, 2.0, 50.0, 1e6), (0.0, 0.3, 0.8)):
        w, spread = ratio * 0.1, 0.1
        z = fraction * w + (0.04 if prior == "uniform" and w < spread else 0)
        got = posterior(0, w, 1, spread, prior, KERNELS[name]).log_prob(torch.tensor(z, dtype=DOUBLE)).item()
        assert got == pytest.approx(reference(name, prior, z, w, spread), rel=1e-10, abs=1e-10)


RATIOS = [1e-6, 1e-3, 0.1, 0.49, 0.5, 0.51, 1.0, 3.0, 30.0, 1e3, 1e6]


@pytest.mark.parametrize("ratio", RATIOS)
def test_uniform_prior_is_exact_for_every_w_over_b(ratio):
    length = 0.1
    w = ratio * length
    for fraction in (0.0, 0.3, 0.7, 0.99, 0.999999, 1.5):
        for z in (fraction * (w + length / 2), abs(w - length / 2) + fraction * min(w, length / 2)):
            got = posterior(0, w, 1, length).log_prob(torch.tensor(z, dtype=DOUBLE)).item()
            # Near the edge the rounding of z itself moves q by eps/(1 - fraction).
            assert got == pytest.approx(exact_uniform(z, w, length), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("ratio", RATIOS)
def test_normal_prior_is_exact_for_every_w_over_sigma(ratio):
    sigma = 0.1
    w = ratio * sigma
    for fraction, deviations in itertools.product((0, 0.3, 0.9, 0.999, 1.0, 1.001), (0, 0.5, 3, 9, 20)):
        z = fraction * w + deviations * sigma
        got = posterior(0, w, 1, sigma, "gaussian").log_prob(torch.tensor(z, dtype=DOUBLE)).item()
        assert got == pytest.approx(exact_normal(z, w, sigma), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("prior", ["uniform", "gaussian"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_float32_agrees_with_float64(prior, kernel):
    for ratio, fraction in itertools.product(RATIOS, (0.0, 0.25, 0.5, 0.75)):
        w, length = ratio * 0.125, 0.125
        z = fraction * (w + length / 2)
        at = torch.tensor(z, dtype=torch.float32)
        single, double = (
            posterior(0, w, 1, length, prior, kernel, dtype=dtype).log_prob(at.to(dtype))
            for dtype in (at.dtype, DOUBLE)
        )
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(double.item(), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("prior", ["uniform", "gaussian"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize(("scale", "length"), [(1.0, 0.1), (0.1, 1.0), (0.7, 0.5)])
def test_samples_and_density_are_of_one_law(prior, kernel, scale, length):
    """KS of draws against the integrated density; fails for one seed in 10^6."""
    q = posterior(0.4, scale, 0.5, length, prior, kernel)
    widths = 1 if kernel.bounded else 80 if kernel.heavy_tailed else 20
    reach = 0.5 * scale * widths + (length / 2 if prior == "uniform" else 9 * length)
    grid = torch.linspace(0.2 - reach, 0.2 + reach, 20_001, dtype=DOUBLE)
    density = q.log_prob(grid).exp().numpy()
    cdf = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))])
    assert cdf[-1] == pytest.approx(1, abs=1e-5)
    draws = q.sample((100_000,)).numpy()
    assert stats.kstest(draws, lambda z: np.interp(z, grid, cdf)).pvalue > SIX_SIGMA_RATE
    assert draws.mean() == pytest.approx(q.mean.item(), abs=5 * q.stddev.item() / math.sqrt(len(draws)))
    if not kernel.heavy_tailed:  # whose fourth moment is infinite
        assert draws.var() == pytest.approx(q.variance.item(), rel=0.03)


@pytest.mark.parametrize("prior", ["uniform", "gaussian"])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_log_prob_gradients(prior, kernel):
    values = [[0.3, -0.2, 0.0], [0.5, 1.5, 0.9], [0.4, 0.4, 0.7], [0.3, 0.2, 0.15], [0.2, 0.1, 0.05]]
    inputs = tuple(torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in values)

    def log_prob(loc, scale, bandwidth, length, z):
        p = Uniform(-length / 2, length / 2) if prior == "uniform" else Normal(torch.zeros_like(length), length)
        return KernelPosterior(kernel(loc, scale), p, bandwidth, validate_args=False).log_prob(z)

    assert torch.autograd.gradcheck(log_prob, inputs)


@pytest.mark.parametrize("prior", ["uniform", "gaussian"])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_finite_at_extremes(prior, dtype, kernel):
    grid = itertools.product([-1e3, 0, 1e3], [1e-8, 1e-3, 1.0, 1e6], [1e-4, 0.3594, 10.0], [1e-3, 0.1, 1e3])
    inputs = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in zip(*grid, strict=True)]
    loc, scale, bandwidth, length = inputs
    p = Uniform(-length / 2, length / 2) if prior == "uniform" else Normal(torch.zeros_like(length), length)
    q = KernelPosterior(kernel(loc, scale), p, bandwidth)
    z = q.rsample()
    at_mean = q.log_prob(q.mean.detach())
    for value in (z, at_mean, q.variance, kernel_penalty(q.kernel, q.support_length)):
        assert value.isfinite().all()
        for gradient in torch.autograd.grad(value.sum(), inputs, retain_graph=True, allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_outside_the_support_is_minus_infinity_with_finite_gradient():
    q = posterior(0, 1, 0.5, 0.2)
    z = torch.tensor([-0.7, 0.61, 1e20], dtype=DOUBLE, requires_grad=True)
    log_prob = KernelPosterior(q.kernel, q.prior, 0.5, validate_args=False).log_prob(z)
    assert (log_prob == -math.inf).all()
    log_prob.exp().sum().backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_no_draw_outside_the_support(dtype):
    for loc, scale, length in itertools.product((0, 1e3), (1e-6, 1.0, 1e6), (1e-3, 1.0)):
        q = posterior(loc, scale, 0.3594, length, dtype=dtype)
        assert q.support.check(q.rsample((10_000,))).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@given(
    loc=st.floats(-1e4, 1e4),
    scale=st.floats(math.log(1e-8), math.log(1e6)),
    bandwidth=st.floats(math.log(1e-4), math.log(1e2)),
    length=st.floats(math.log(1e-4), math.log(1e4)),
)
@example(loc=3.7, scale=math.log(1e-8), bandwidth=math.log(10), length=math.log(1e-3))
@settings(deadline=None, max_examples=30)
def test_every_draw_has_a_density(dtype, loc, scale, bandwidth, length):
    """Also the outermost draws, and where the spacing of floating-point numbers exceeds the support."""
    for kernel in KERNELS.values():
        q = posterior(loc, *map(math.exp, (scale, bandwidth, length)), kernel=kernel, dtype=dtype)
        z = [q.rsample((500,))]
        if kernel.bounded:
            ends = torch.tensor([-1.0, 1.0], dtype=dtype)
            z.append(q.bandwidth * (q.kernel.loc + ends * q.kernel.scale) + ends * q.support_length / 2)
        assert all(q.log_prob(draws).isfinite().all() for draws in z)


def test_rsample_is_algorithm_1_and_its_gradient():
    loc, scale, b = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.2, 0.7, 0.36))
    q = KernelPosterior(Epanechnikov(loc, scale), Uniform(*torch.tensor([-0.05, 0.05], dtype=DOUBLE)), b)
    torch.manual_seed(3)
    z = q.rsample()
    torch.manual_seed(3)
    k = 2 * math.sin(math.asin(2 * torch.rand((), dtype=DOUBLE).item() - 1) / 3)
    u = -0.05 + 0.1 * torch.rand((), dtype=DOUBLE).item()
    assert z.item() == pytest.approx(0.36 * (0.2 + 0.7 * k) + u, rel=1e-14)
    gradients = torch.autograd.grad(z, (loc, scale, b))
    assert [g.item() for g in gradients] == pytest.approx([0.36, 0.36 * k, 0.2 + 0.7 * k], rel=1e-13)


def test_a_shifted_prior_shifts_the_posterior():
    kernel = Epanechnikov(*torch.tensor([0.3, 0.8], dtype=DOUBLE))
    low = KernelPosterior(kernel, Uniform(*torch.tensor([-0.5, 0.5], dtype=DOUBLE)), 0.5)
    high = KernelPosterior(kernel, Uniform(*torch.tensor([1.5, 2.5], dtype=DOUBLE)), 0.5)
    z = torch.linspace(-0.5, 0.7, 7, dtype=DOUBLE)
    torch.testing.assert_close(high.log_prob(z + 2), low.log_prob(z))


def test_contract():
    q = KernelPosterior(Epanechnikov(torch.zeros(3, 1), torch.ones(4)), Normal(0.0, 0.1), 0.4)
    assert q.batch_shape == (3, 4)
    assert q.rsample((2,)).shape == (2, 3, 4)
    assert q.log_prob(torch.zeros(2, 3, 4)).shape == (2, 3, 4)
    wide = q.expand((5, 3, 4))
    assert wide.rsample().shape == wide.mean.shape == wide.variance.shape == wide.support_length.shape == (5, 3, 4)
    torch.testing.assert_close(copy.deepcopy(q).log_prob(torch.zeros(3, 4)), q.log_prob(torch.zeros(3, 4)))
    with pytest.raises(ValueError, match="bandwidth"):
        KernelPosterior(Epanechnikov(0.0, 1.0), Normal(0.0, 0.1), 0.0)
    with pytest.raises(TypeError, match="Laplace"):
        KernelPosterior(Epanechnikov(0.0, 1.0), Laplace(0.0, 1.0), 1.0)


def test_kernel_penalty_is_equation_8():
    """3B/(5 M r), and no part of μ."""
    loc, scale = torch.randn(5, dtype=DOUBLE, requires_grad=True), torch.rand(5, dtype=DOUBLE).requires_grad_()
    penalty = kernel_penalty(Epanechnikov(loc, scale), support_length=0.1, n=100)
    torch.testing.assert_close(penalty, 3 * 0.1 / (5 * 100) / scale)
    loc_gradient, scale_gradient = torch.autograd.grad(penalty.sum(), (loc, scale), allow_unused=True)
    assert loc_gradient is None
    torch.testing.assert_close(scale_gradient, -3 * 0.1 / 500 / scale**2)


def test_spreads_have_names():
    r, one = torch.full((2, 3), 0.5), torch.ones(2)
    normal = Independent(Normal(torch.zeros(2, 3), r), 1)
    kernel = KernelPosterior(Epanechnikov(torch.zeros(2, 3), r), Normal(torch.zeros(3), 0.1), 0.4)
    spherical = SphericalPosterior(SphericalEpanechnikov(torch.zeros(2, 3), 0.5), normal, 0.4)
    for q, name, values in (
        (normal, "standard deviation", r),
        (Independent(kernel, 1), "r", r),
        (spherical, "r", r),
        (VonMisesFisher(torch.eye(2), one), "concentration", one),
        (PowerSpherical(torch.eye(2), one), "concentration", one),
    ):
        found, spread = posterior_spread(q)
        assert found == name
        assert torch.equal(spread, values)
    assert posterior_spread(PointMass(torch.zeros(2, 3))) == (None, None)


def test_a_sample_of_a_point_mass_is_detached():
    q = PointMass(torch.zeros(2, 3, requires_grad=True)).expand((4, 2))
    assert q.sample((5,)).shape == (5, 4, 2, 3)
    assert q.rsample().requires_grad
    assert not q.sample().requires_grad


@pytest.mark.parametrize("mixed_in", [False, True])
@pytest.mark.parametrize(
    "q",
    [
        Epanechnikov(torch.zeros(2), 1.0),
        KernelPosterior(Epanechnikov(torch.zeros(2), 1.0), Normal(0.0, 1.0), 0.4),
        PointMass(torch.zeros(2, 3)),
        PowerSpherical(torch.eye(3)[:2], 1.0),
        HypersphericalUniform(3, (2,)),
        SphericalEpanechnikov(torch.zeros(2, 3), 1.0),
        SphericalPosterior(
            SphericalEpanechnikov(torch.zeros(2, 3), 1.0), Independent(Normal(torch.zeros(3), 1.0), 1), 1
        ),
    ],
    ids=lambda q: type(q).__name__,
)
def test_expand_keeps_the_class_and_everything_else(q, mixed_in):
    """As torch.distributions' own: of a subclass that adds nothing, too, and into an instance of one."""
    derived = type("Derived", (type(q),), {})
    one = copy.copy(q)
    one.__class__ = derived
    wide = q.expand((4, 2), _instance=derived.__new__(derived)) if mixed_in else one.expand((4, 2))
    assert type(wide) is derived
    assert (wide.batch_shape, wide.event_shape) == ((4, 2), q.event_shape)
    assert wide.rsample((5,)).shape == (5, 4, 2, *q.event_shape)
    assert wide.variance.shape == (4, 2, *q.event_shape)
    assert q.batch_shape == (2,)
