"""Distributions on the sphere against reference values, quadrature, moments and the laws of their angles."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import kl_divergence
from torch.nn import functional

from evae.distributions import HypersphericalUniform, PowerSpherical, VonMisesFisher, monte_carlo_kl
from evae.distributions.circular import angle_velocity, log_partition, moments
from evae.distributions.hypersphere import propose_height
from evae.distributions.quadrature import legendre
from tests.conftest import oracle

DOUBLE = torch.float64
RATE = 1e-6  # at which a test of samples fails for another seed
FAMILIES = [VonMisesFisher, PowerSpherical]


def direction(dim, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(dim, generator=generator, dtype=DOUBLE), dim=0)


def double(x):
    return torch.tensor(x, dtype=DOUBLE)


@pytest.mark.parametrize("case", oracle("vmf"), ids=lambda case: f"{case['dim']}-{case['concentration']:g}")
def test_reference_values(case):
    dim = case["dim"]
    kappa = double(case["concentration"]).requires_grad_()
    q = VonMisesFisher(direction(dim), kappa)
    uniform = HypersphericalUniform(dim, dtype=DOUBLE)
    across = functional.normalize(torch.eye(dim, dtype=DOUBLE)[0] - q.loc[0] * q.loc, dim=0)
    mean, kl = moments(kappa, dim).mean, kl_divergence(q, uniform)
    values = {
        "log_normalizer": q.log_prob(across),
        "mean_resultant": mean,
        "mean_resultant_grad": torch.autograd.grad(mean, kappa, retain_graph=True)[0],
        "kl_to_uniform": kl,
    }
    for name, value in values.items():
        assert value.item() == pytest.approx(case[name], rel=1e-9), name
    (slope,) = torch.autograd.grad(kl, kappa)
    assert slope.item() == pytest.approx(case["concentration"] * case["mean_resultant_grad"], rel=1e-9)
    assert q.entropy().item() == pytest.approx(uniform.entropy().item() - kl.item(), rel=1e-12)
    torch.testing.assert_close(q.mean, mean.detach() * q.loc)


@pytest.mark.parametrize("dim", [2, 17, 4096])
@pytest.mark.parametrize("kappa", [1e-8, 3.0, 90.5, 91.0, 1e6])  # 90.5 and 91 are on both sides of the series' end
def test_beyond_the_oracle(dim, kappa):
    """Bessel functions of 60 digits."""
    import mpmath

    k = double(kappa)
    with mpmath.workdps(60):
        exact, order = mpmath.mpf(k.item()), mpmath.mpf(dim) / 2 - 1
        lower, upper = mpmath.besseli(order, exact), mpmath.besseli(order + 1, exact)
        mean = upper / lower
        expected = {
            "log_partition": mpmath.log(lower * mpmath.gamma(order + 1) * (exact / 2) ** -order),
            "mean": mean,
            "variance": 1 - mean**2 - (dim - 1) * mean / exact,
        }
    values = log_partition(k, dim), moments(k, dim).mean, moments(k, dim).variance
    for value, (name, reference) in zip(values, expected.items(), strict=True):
        assert value.item() == pytest.approx(float(reference), rel=1e-10), name


def test_three_dimensions_in_closed_form():
    """C_3(κ) = κ/(4π sinh κ), A_3 = coth κ - 1/κ."""
    for kappa in (1e-2, 0.7, 2.4, 2.5, 9.0, 600.0):
        k = double(kappa)
        log_sinh = kappa + math.log(-math.expm1(-2 * kappa) / 2)
        assert log_partition(k, 3).item() == pytest.approx(log_sinh - math.log(kappa), rel=1e-12)
        mean = 1 / math.tanh(kappa) - 1 / kappa
        assert moments(k, 3).mean.item() == pytest.approx(mean, rel=1e-11)


@given(dim=st.integers(2, 4096), log_kappa=st.floats(math.log(1e-8), math.log(1e6)), single=st.booleans())
@settings(max_examples=60, deadline=None)
def test_everything_is_finite_and_in_its_range(dim, log_kappa, single):
    dtype = torch.float32 if single else DOUBLE
    kappa = torch.tensor(math.exp(log_kappa), dtype=dtype, requires_grad=True)
    for family in FAMILIES:
        q = family(direction(dim).to(dtype), kappa, validate_args=False)
        z = q.rsample((3,))
        assert z.dtype == dtype
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(3, dtype=dtype), rtol=0, atol=1e-5)
        kl = kl_divergence(q, HypersphericalUniform(dim, dtype=dtype))
        assert kl >= -1e-9
        assert (q.variance >= 0).all()
        assert q.mean.norm() <= 1 + 1e-6
        total = kl + q.log_prob(z.detach()).sum() + (z * torch.linspace(-1, 1, dim, dtype=dtype)).sum()
        (gradient,) = torch.autograd.grad(total, kappa)
        assert total.isfinite()
        assert gradient.isfinite()


def test_gradients_by_differences():
    kappa = torch.tensor([0.01, 1.0, 2.9, 3.1, 40.0, 3e3], dtype=DOUBLE, requires_grad=True)
    for dim in (2, 5, 40):
        assert torch.autograd.gradcheck(lambda k, d=dim: log_partition(k, d), kappa, eps=1e-5, rtol=1e-6)
        assert torch.autograd.gradcheck(lambda k, d=dim: moments(k, d).mean, kappa, eps=1e-5, rtol=1e-6)
        assert torch.autograd.gradgradcheck(lambda k, d=dim: log_partition(k, d), kappa, eps=1e-5, rtol=1e-5)
    loc = torch.stack([direction(4), direction(4, 2)]).requires_grad_()
    z = torch.stack([direction(4, 3), direction(4, 4)])
    for family in FAMILIES:

        def log_prob(loc, kappa, family=family):
            return family(loc, kappa, validate_args=False).log_prob(z)

        assert torch.autograd.gradcheck(log_prob, (loc, kappa[1:3].detach().requires_grad_()))


def angle_law(family, kappa, dim):
    """Grid and CDF of the angle, by Simpson's rule."""
    end = math.pi if kappa < 50 else min(math.pi, 3 * math.sqrt(dim / kappa) + 12 / math.sqrt(kappa))
    grid = torch.linspace(0, end, 40_001, dtype=DOUBLE)
    sine = grid.sin().clamp(min=1e-300).log() * (dim - 2)
    tilt = -2 * (grid / 2).sin() ** 2 if family is VonMisesFisher else 2 * (grid / 2).cos().clamp(min=1e-300).log()
    log_density = sine + kappa * tilt
    density = (log_density - log_density.max()).exp().numpy()
    cdf = integrate.cumulative_simpson(density, x=grid.numpy(), initial=0)
    return grid, cdf / cdf[-1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 8, 64, 512])
@pytest.mark.parametrize("kappa", [1e-2, 5.0, 100.0, 1e5])
def test_the_angle_of_a_draw(family, dim, kappa):
    """Kolmogorov-Smirnov, which fails for one seed in 10^6; the direction around the axis is even."""
    loc = direction(dim)
    z = family(loc, double(kappa)).sample((5_000,))
    angle = 2 * ((z - loc).norm(dim=-1) / 2).clamp(max=1).asin().numpy()
    grid, cdf = angle_law(family, kappa, dim)
    assert stats.kstest(angle, lambda x: np.interp(x, grid.numpy(), cdf)).pvalue > RATE
    across = z - (z @ loc)[:, None] * loc
    evenness = across.mean(0).norm() / across.norm(dim=1).square().mean().sqrt() * math.sqrt(len(z))
    assert evenness.square() < stats.chi2(dim - 1).isf(RATE) / (dim - 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_moments_of_draws(family):
    """Within 6 standard errors (one seed in 10^8)."""
    q = family(direction(5), double(4.0))
    z = q.sample((50_000,))
    for sample, value in ((z, q.mean), ((z - q.mean) ** 2, q.variance)):
        assert ((sample.mean(0) - value).abs() < 6 * sample.std(0) / len(z) ** 0.5).all()
    uniform = HypersphericalUniform(5, dtype=DOUBLE)
    estimate = q.log_prob(z) - uniform.log_prob(z)
    error = 6 * estimate.std() / len(z) ** 0.5
    assert (estimate.mean() - kl_divergence(q, uniform)).abs() < error
    assert (estimate.mean() - monte_carlo_kl(q, uniform, 10_000)).abs() < 5 * error
    u = uniform.sample((50_000,))
    assert ((u.square().mean(0) - uniform.variance).abs() < 0.01).all()


@pytest.mark.parametrize(("dim", "kappa"), [(5, 2.0), (2, 0.3), (3, 50.0), (64, 200.0), (512, 1e4)])
def test_the_gradient_in_the_concentration_is_unbiased(dim, kappa):
    """Mean of d(μᵀz)/dκ against A', to 6 standard errors (one seed in 10^8); 0.128 for rejection's own at 5, 2."""
    loc = direction(dim)
    kappas = torch.full((20_000,), kappa, dtype=DOUBLE, requires_grad=True)
    cosine = VonMisesFisher(loc, kappas).rsample() @ loc
    (gradients,) = torch.autograd.grad(cosine.sum(), kappas)
    expected = moments(double(kappa), dim).variance
    assert (gradients.mean() - expected).abs() < 6 * gradients.std() / len(kappas) ** 0.5
    if (dim, kappa) == (5, 2.0):
        assert expected.item() == pytest.approx(0.1474, abs=5e-5)


@pytest.mark.parametrize("dim", [2, 7, 100])
def test_the_angle_moves_as_its_quantile(dim):
    """Pathwise derivative against differences of the inverse CDF."""
    kappa, step = 8.0, 1e-3
    quantiles = np.array([0.02, 0.3, 0.5, 0.8, 0.99])
    angles = []
    for k in (kappa - step, kappa, kappa + step):
        grid, cdf = angle_law(VonMisesFisher, k, dim)
        keep = np.concatenate([[True], np.diff(cdf) > 0])
        angles.append(np.interp(quantiles, cdf[keep], grid.numpy()[keep]))
    velocity = angle_velocity(torch.from_numpy(angles[1]), torch.full((5,), kappa, dtype=DOUBLE), dim)
    assert velocity.tolist() == pytest.approx(((angles[2] - angles[0]) / (2 * step)).tolist(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_the_gradient_in_the_direction_is_unbiased(family, dim):
    """d E[f(z)]/dμ along a tangent against differences with A and E cos²; to 6 standard errors (one seed in 10^8)."""
    loc = direction(dim)
    tangent = functional.normalize(direction(dim, 2) - (direction(dim, 2) @ loc) * loc, dim=0)
    count = 40_000
    turned = loc.expand(count, -1).clone().requires_grad_()
    q = family(turned, double(3.0), validate_args=False)
    z = q.rsample()
    along, across = z @ loc, z @ tangent
    law = family(loc, double(3.0))
    for f, expected in (
        (across, law.mean @ loc),  # E[tᵀz] = A tᵀμ
        (along * across, second_moment(law)),
    ):
        (gradient,) = torch.autograd.grad(f.sum(), turned, retain_graph=True)
        derivatives = gradient @ tangent
        assert (derivatives.mean() - expected).abs() < 6 * derivatives.std() / count**0.5
        assert (gradient @ loc).abs().max() < 1e-9  # none out of the sphere


def second_moment(q):
    """d/dμ along a tangent t of E[(μ₀ᵀz)(tᵀz)]: the second moment along μ less that across it."""
    mean, variance = q._cosine_moments()
    squared = mean**2 + variance
    return squared - (1 - squared) / (q.dim - 1)


def test_rejection_accepts_two_thirds_at_least():
    """The rate falls to 0.66 at d = 2 and large κ: a draw needs 1.5 rounds on average at worst."""
    for dim in (2, 3, 64, 512):
        for kappa in (1e-3, 1.0, 1e3, 1e5):
            _, accepted = propose_height(torch.full((20_000,), kappa, dtype=DOUBLE), dim)
            assert accepted.double().mean() > 0.64


@pytest.mark.parametrize("family", FAMILIES)
def test_contract(family):
    q = family(torch.stack([direction(3), direction(3, 2)]), 5.0, validate_args=True)
    assert (q.batch_shape, q.event_shape) == ((2,), (3,))
    wide = q.expand((4, 2))
    assert wide.rsample((6,)).shape == (6, 4, 2, 3)
    assert wide.log_prob(q.sample()).shape == (4, 2)
    assert copy.deepcopy(q).sample().shape == (2, 3)
    assert torch.equal(q.mode, q.loc)
    with pytest.raises(ValueError, match="within the support"):
        q.log_prob(torch.ones(2, 3, dtype=DOUBLE))
    with pytest.raises(ValueError, match="constraint"):
        family(torch.ones(3), 1.0, validate_args=True)
    with pytest.raises(ValueError, match="constraint"):
        family(direction(3), -1.0, validate_args=True)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        family(torch.ones(1), 1.0)
    uniform = HypersphericalUniform(3).expand((2,))
    assert uniform.rsample((5,)).shape == (5, 2, 3)
    assert uniform.log_prob(uniform.sample()).tolist() == pytest.approx([-math.log(4 * math.pi)] * 2)
    assert uniform.entropy().shape == (2,)
    assert uniform.mean.shape == (2, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_to_the_uniform_distribution_has_the_batch_shape_of_both(family):
    q = family(direction(3), 5.0)
    assert kl_divergence(q, HypersphericalUniform(3, (4, 2))).shape == (4, 2)
    assert kl_divergence(q.expand((5, 1, 2)), HypersphericalUniform(3, (4, 1))).shape == (5, 4, 2)
    with pytest.raises(ValueError, match="spheres of R\\^3 and R\\^5"):
        kl_divergence(q, HypersphericalUniform(5))


DENSITIES = {
    "uniform": HypersphericalUniform(4, dtype=DOUBLE),
    "von Mises-Fisher": VonMisesFisher(direction(4), double(3.0)),
    "another": VonMisesFisher(direction(4, 2), double([0.5, 30.0])),
    "power spherical": PowerSpherical(direction(4), double([0.7, 20.0])),
}


@pytest.mark.parametrize("p", DENSITIES)
@pytest.mark.parametrize("q", DENSITIES)
def test_kl_on_one_sphere(q, p):
    """The mean of ln q - ln p over draws, within 6 standard errors; 0 of a law and itself."""
    q, p = DENSITIES[q], DENSITIES[p]
    if isinstance(p, PowerSpherical):
        with pytest.raises(NotImplementedError):
            kl_divergence(q, p)
        return
    z = q.expand((2,)).sample((20_000,))
    terms = q.log_prob(z) - p.log_prob(z)
    kl = kl_divergence(q, p)
    assert kl.shape == torch.broadcast_shapes(q.batch_shape, p.batch_shape)
    error = terms.std(0) / math.sqrt(len(z)) + 1e-12
    assert ((kl - terms.mean(0)).abs() < 6 * error).all()
    if q is p:
        assert (kl == 0).all()


def test_no_kl_between_spheres_of_different_dimensions():
    laws = [
        lambda d: HypersphericalUniform(d, dtype=DOUBLE),
        lambda d: VonMisesFisher(direction(d), 3.0),
        lambda d: PowerSpherical(direction(d), 3.0),
    ]
    for q in laws:
        for p in laws[:2]:
            with pytest.raises(ValueError, match=r"spheres of R\^3 and R\^5"):
                kl_divergence(q(3), p(5))


@pytest.mark.parametrize("family", FAMILIES)
def test_density_integrates_to_one(family):
    """Over the angle, times the area of the parallel."""
    for dim in (2, 3, 6):
        for kappa in (0.1, 3.0, 40.0):
            loc, other = torch.eye(dim, dtype=DOUBLE)[:2]
            x, weights = legendre(400, torch.zeros((), dtype=DOUBLE))
            grid = math.pi * x
            z = grid.cos()[:, None] * loc + grid.sin()[:, None] * other
            log_parallel = math.log(2) + (dim - 1) / 2 * math.log(math.pi) - math.lgamma((dim - 1) / 2)
            density = (family(loc, double(kappa)).log_prob(z) + log_parallel + (dim - 2) * grid.sin().log()).exp()
            assert math.pi * (weights * density).sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("concentration", "finite"), [(math.nan, False), (-math.inf, False), (math.inf, True), (1e308, True)]
)
def test_concentrations_that_no_proposal_fits(concentration, finite):
    """The sampler ends: with NaN, or with the mean direction where the concentration is as good as infinite."""
    loc = torch.eye(5, dtype=torch.float64)[0].expand(2, 5)
    q = VonMisesFisher(loc, torch.tensor([concentration, 3.0], dtype=torch.float64), validate_args=False)
    first, second = q.sample((3,)).unbind(1)
    assert second.isfinite().all()
    assert torch.equal(first, loc[:1].expand(3, 5)) if finite else first.isnan().all()
