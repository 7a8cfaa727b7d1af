"""The statements of docs/theory.md, each against simulation, quadrature or brute force."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Cauchy, Normal, Uniform, kl_divergence

from evae.distributions import KERNELS, Epanechnikov, KernelPosterior, chi_square, kernel_penalty, matched_scale
from evae.distributions.entropy import _entropy_by_quadrature

DOUBLE = torch.float64
BOUNDED = ["uniform", "epanechnikov", "biweight", "triweight", "triangular", "tricube", "cosine"]
TEN = [*BOUNDED, "gaussian", "logistic", "laplace"]


def tensor(value):
    return torch.tensor(value, dtype=DOUBLE)


def standard(name):
    return KERNELS[name](tensor(0.0), tensor(1.0))


def squared_norm(draws, w, period=None):
    """∫ q_m² of Epanechnikov density estimates of half-width w, draws (S, m): their kernels' convolutions, summed."""
    distance = (draws[:, :, None] - draws[:, None, :]).abs()
    if period is not None:
        distance = torch.minimum(distance, period - distance)
    t = (distance / w).clamp(max=2)
    return (3 / 160 * (2 - t) ** 3 * (t**2 + 6 * t + 4)).mean((1, 2)) / w


@cache
def slope_of_entropy(name):
    """κ = -∫ G ln G, by the midpoints of t = s³: smooth at the ends."""
    end = 1 if KERNELS[name].bounded else 60
    x = (torch.arange(200_000, dtype=DOUBLE) + 0.5) / 200_000
    half = end * x**3
    tail, weight = standard(name).cdf(-half), 3 * end * x**2 / len(x)
    return -((torch.xlogy(tail, tail) + torch.special.xlog1py(1 - tail, -tail)) * weight).sum().item()


def kl_to_normal(name, width):
    """KL(q‖p) of a kernel of this half-width and a standard normal prior, by quadrature of the entropy."""
    variance = 1 + KERNELS[name].standard_variance * width**2
    return (math.log(2 * math.pi) + variance) / 2 - _entropy_by_quadrature(KERNELS[name], "normal", width)


class TestDensityEstimates:
    """Bias and variance of E χ²(q_m‖p)."""

    def test_chi_square_is_bias_and_variance(self):
        """Of 20 draws on [-0.2, 0.2] around 0.1, against Unif[-1, 1]: 6 standard errors, one seed in 10^8."""
        length, centre, w, m, whole = 0.4, 0.1, 0.15, 20, 2.0
        draws = centre + length * (torch.rand(5_000, m, dtype=DOUBLE) - 0.5)
        simulated = whole * squared_norm(draws, w) - 1
        q = KernelPosterior(Epanechnikov(tensor(centre), tensor(w)), Uniform(tensor(-0.2), tensor(0.2)), tensor(1.0))
        bias = chi_square(q, Uniform(tensor(-1.0), tensor(1.0))).item()
        variance = whole * 0.6 / w - 1 - bias
        assert abs(simulated.mean().item() - bias - variance / m) < 6 * simulated.std().item() / math.sqrt(5_000)
        assert bias > 1  # neither term is small
        assert variance / m > 0.19

    def test_on_a_circle_it_is_all_variance_and_half_of_it_the_mean_kl(self):
        length, w, m = 1.0, 0.1, 100
        draws = torch.rand(1_000, m, dtype=DOUBLE)
        simulated = length * squared_norm(draws, w, length) - 1
        expected = (length * 0.6 / w - 1) / m
        assert expected == pytest.approx(0.05)
        assert abs(simulated.mean().item() - expected) < 6 * simulated.std().item() / math.sqrt(len(draws))
        z = torch.linspace(0, 1, 201, dtype=DOUBLE)[:-1, None]
        distance = (z - draws[:100, None]).abs()
        t = torch.minimum(distance, 1 - distance) / w
        density = (0.75 * (1 - t**2).clamp(min=0)).mean(-1) / w
        kl = torch.xlogy(density, density).mean(1)
        assert kl.mean().item() == pytest.approx(expected / 2, rel=0.15)

    def test_the_penalty_is_the_variance_for_narrow_kernels(self):
        """Their ratio is 1/(1 - w/(B I)): 1.02 for w = B/100, 2.25 for w = B/3."""
        for share, ratio in ((1e-2, 1.0169), (1 / 3, 2.25)):
            penalty = kernel_penalty(Epanechnikov(tensor(0.0), tensor(share)), 1.0, 100).item()
            assert penalty / ((0.6 / share - 1) / 100) == pytest.approx(ratio, rel=1e-4)

    def test_the_published_weight(self):
        m = 100
        assert m * m ** (-2 / 9) == pytest.approx(35.938, rel=1e-4)
        m = 100 ** (9 / 7)
        assert m == pytest.approx(372.76, rel=1e-4)
        assert m * m ** (-2 / 9) == pytest.approx(100)

    def test_the_limit_is_infinite_for_a_gaussian_prior(self):
        """∫ (K_w²⋆p)/p over [-L, L]: the closed form is the double integral, and leaves 2L·∫K_w² behind."""
        w, kernel = 0.1, standard("epanechnikov")
        s = torch.linspace(-1, 1, 401, dtype=DOUBLE) * w
        squared = (kernel.log_prob(s / w).clamp(min=-700).exp() / w) ** 2
        prior = Normal(tensor(0.0), tensor(1.0))
        values = []
        for reach in (1.0, 3.0, 10.0, 30.0):
            growth = torch.where(s.abs() < 1e-12, 1.0, (reach * s).sinh() / (reach * s))
            integrand = squared * (-(s**2) / 2).exp() * 2 * reach * growth
            values.append(torch.trapezoid(integrand, s).item())
            z = torch.linspace(-reach, reach, 4001, dtype=DOUBLE)
            ratio = (prior.log_prob(z[:, None] - s) - prior.log_prob(z)[:, None]).exp()
            direct = torch.trapezoid(torch.trapezoid(ratio * squared, s), z).item()
            assert values[-1] == pytest.approx(direct, rel=1e-3)
        assert values == pytest.approx([12.0, 36.1, 122.8, 449.5], rel=2e-3)
        assert values[-1] > 1.2 * 2 * 30 * 0.6 / w


class TestProperBounds:
    """Objectives that are negative ELBOs, with Algorithm 1's posterior."""

    def test_a_wide_uniform_prior(self):
        """KL = ln(A/B) - 2κw/B, whatever the centre."""
        whole, length, w = 3.0, 1.0, 0.4
        p = Uniform(tensor(-whole / 2), tensor(whole / 2))
        for centre in (0.0, 0.55):
            q = KernelPosterior(Epanechnikov(tensor(centre), tensor(w)), Uniform(tensor(-0.5), tensor(0.5)), 1.0)
            expected = math.log(whole / length) - 2 * slope_of_entropy("epanechnikov") * w / length
            assert kl_divergence(q, p).item() == pytest.approx(expected, rel=1e-9)
        for name in BOUNDED:
            entropy = _entropy_by_quadrature(KERNELS[name], "uniform", w)
            assert entropy == pytest.approx(2 * w * slope_of_entropy(name), rel=1e-8)

    def test_the_prior_draw_as_the_decoders_noise(self):
        """KL(b·K‖Unif_A) = ln(A/(b r)) - H(K), no less than the KL of the sum to the law of v + U, a trapezoid."""
        whole, length, w = 4.0, 0.1, 0.03
        kernel = Epanechnikov(tensor(0.7), tensor(w))
        rate = kl_divergence(kernel, Uniform(tensor(-whole / 2), tensor(whole / 2))).item()
        assert rate == pytest.approx(math.log(whole / w) - (5 / 3 - math.log(3)), rel=1e-12)
        q = KernelPosterior(kernel, Uniform(tensor(-length / 2), tensor(length / 2)), 1.0)
        of_sum = math.log(whole) - q.entropy().item()  # where q lies on the trapezoid's flat top
        assert (rate, of_sum) == (pytest.approx(4.325, abs=1e-3), pytest.approx(3.451, abs=1e-3))
        normal = kl_divergence(kernel, Normal(tensor(0.0), tensor(2.0))).item()
        expected = -math.log(w) - (5 / 3 - math.log(3)) + math.log(8 * math.pi) / 2 + (0.49 + w**2 / 5) / 8
        assert normal == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("sigma", "w", "c"), [(1.0, 0.3, 0.0), (0.1, 0.2, 1.0), (1.0, 5.0, -3.0)])
    def test_cauchy_kernel_and_prior(self, sigma, w, c):
        """KL = ln(1 + χ²/2) = ln[((g + σ)² + c²)/(4 g σ)], g = σ + w; and the sum of their draws has this law."""
        g = sigma + w
        q, p = Cauchy(tensor(c), tensor(g)), Cauchy(tensor(0.0), tensor(sigma))
        theta = (torch.arange(200_000, dtype=DOUBLE) + 0.5) / 200_000
        z = c + g * (math.pi * (theta - 0.5)).tan()  # quantiles of q
        ratio = q.log_prob(z) - p.log_prob(z)
        closed = math.log(((g + sigma) ** 2 + c**2) / (4 * g * sigma))
        assert ratio.mean().item() == pytest.approx(closed, abs=2e-4)
        squared = ratio.exp().mean().item() - 1
        assert squared == pytest.approx(((g - sigma) ** 2 + c**2) / (2 * g * sigma), rel=1e-3)
        assert closed == pytest.approx(math.log1p(((g - sigma) ** 2 + c**2) / (4 * g * sigma)), rel=1e-12)
        assert kl_divergence(q, p).item() == pytest.approx(closed, rel=1e-12)


class TestBestKernels:
    """Which kernel is best depends on what is minimised, and on what is held."""

    @pytest.mark.parametrize("name", TEN)
    def test_lemma_3_2_and_its_remainder(self, name):
        """∫f² - ∫K_E² ≥ ∫(f - K_E)² at equal variance, with equality for supports inside K_E's."""
        scale = float(matched_scale(name, 0.2))
        f = KERNELS[name](tensor(0.0), tensor(scale), validate_args=False)
        best = Epanechnikov(tensor(0.0), tensor(1.0), validate_args=False)
        end = max(1.0, scale * (1 if f.bounded else 40))
        t = torch.cat([torch.linspace(0, 1, 40_001, dtype=DOUBLE), torch.linspace(1, end, 40_001, dtype=DOUBLE)])
        difference = 2 * torch.trapezoid((f.log_prob(t).exp() - best.log_prob(t).exp()) ** 2, t).item()
        excess = f.roughness.item() - best.roughness.item()
        assert excess >= difference - 1e-6
        if end == 1:
            assert excess == pytest.approx(difference, abs=1e-4)

    def test_exact_kl_to_a_gaussian_prior(self):
        """At equal variance v the Gaussian is best, and the others' excess γ₂²v⁴/(48(1 + v)⁴) to first order."""
        for v in (0.05, 1.0):
            kl = {name: kl_to_normal(name, matched_scale(name, v)) for name in TEN}
            order = sorted(kl, key=kl.get)
            assert order[0] == "gaussian"
            assert order.index("epanechnikov") == 6
            if v == 0.05:
                excess = kl["epanechnikov"] - (v - math.log1p(v)) / 2
                assert excess == pytest.approx((6 / 7) ** 2 * v**4 / (48 * (1 + v) ** 4), rel=0.01)

    def test_exact_kl_to_a_gaussian_prior_at_equal_half_width(self):
        kl = {name: kl_to_normal(name, 1.0) for name in BOUNDED}
        by_variance = sorted(BOUNDED, key=lambda name: KERNELS[name].standard_variance)
        assert sorted(kl, key=kl.get) == by_variance
        assert by_variance[0] == "triweight"

    def test_exact_kl_to_a_wide_uniform_prior(self):
        """κ/sd is at most π/(2√3), that of the logistic; of bounded kernels the triweight's is the greatest."""
        ratios = {name: slope_of_entropy(name) / standard(name).stddev.item() for name in TEN}
        bound = math.pi / (2 * math.sqrt(3))
        assert all(ratio < bound + 1e-9 for ratio in ratios.values())
        assert ratios["logistic"] == pytest.approx(bound, rel=1e-9)
        order = sorted(BOUNDED, key=ratios.get, reverse=True)
        assert order == ["triweight", "triangular", "biweight", "tricube", "cosine", "epanechnikov", "uniform"]
        at_equal_half_width = {name: slope_of_entropy(name) for name in BOUNDED}
        assert max(at_equal_half_width, key=at_equal_half_width.get) == "uniform"
        assert at_equal_half_width["uniform"] == pytest.approx(0.5, rel=1e-9)

    def test_entropy_and_roughness(self):
        """Of given variance the Gaussian's entropy is the greatest, of given half-width the uniform's."""
        at_equal_variance = {name: standard(name).entropy().item() - standard(name).stddev.log().item() for name in TEN}
        order = sorted(at_equal_variance, key=at_equal_variance.get, reverse=True)
        assert (order[0], order.index("epanechnikov")) == ("gaussian", 7)
        at_equal_half_width = {name: KERNELS[name].standard_entropy for name in BOUNDED}
        assert max(at_equal_half_width, key=at_equal_half_width.get) == "uniform"
        assert min(BOUNDED, key=lambda name: KERNELS[name].standard_roughness) == "uniform"


def test_generated_means_lie_in_a_ball():
    """‖f(z) - f(0)‖ ≤ L·B√d/2 on the prior's support; the corners are the farthest."""
    torch.manual_seed(0)
    d, length = 5, 0.3
    network = nn.Sequential(nn.Linear(d, 30), nn.Tanh(), nn.Linear(30, 40), nn.Sigmoid()).double()
    lipschitz = torch.linalg.matrix_norm(network[0].weight, 2) * torch.linalg.matrix_norm(network[2].weight, 2) / 4
    z = length * (torch.rand(20_000, d, dtype=DOUBLE) - 0.5)
    z = torch.cat([z, length / 2 * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=DOUBLE)] * d)])
    moved = (network(z) - network(torch.zeros(d, dtype=DOUBLE))).norm(dim=1)
    radius = lipschitz.item() * length * math.sqrt(d) / 2
    assert moved.max().item() <= radius
    data = torch.rand(500, 40, dtype=DOUBLE)
    away = (data - network(torch.zeros(d, dtype=DOUBLE))).norm(dim=1)
    nearest = torch.cdist(data, network(z)).amin(1)
    assert (nearest >= away - radius).all()
    quantile = np.quantile(away.detach().numpy(), 0.5)
    assert quantile > radius  # half of the data are beyond it, and missed
    assert (nearest[away > quantile] > quantile - radius).all()
