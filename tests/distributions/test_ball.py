"""The radially symmetric kernel against its one-dimensional case, its marginals, moments and integrals."""

import copy
import math

import pytest
import torch
from scipy import special, stats
from torch.distributions import Independent, Normal, Uniform

from evae.distributions import Epanechnikov, SphericalEpanechnikov, SphericalPosterior, kernel_penalty

DOUBLE = torch.float64
RATE = 1e-6


def standard(d):
    return SphericalEpanechnikov(torch.zeros(d, dtype=DOUBLE), 1.0, validate_args=False)


def test_one_dimension_is_epanechnikov():
    spherical = SphericalEpanechnikov(torch.tensor([0.3], dtype=DOUBLE), 1.7)
    flat = Epanechnikov(torch.tensor(0.3, dtype=DOUBLE), torch.tensor(1.7, dtype=DOUBLE))
    x = torch.linspace(-1.3, 1.9, 9, dtype=DOUBLE)
    torch.testing.assert_close(spherical.log_prob(x[:, None]), flat.log_prob(x))
    for name in ("variance", "roughness"):
        assert getattr(spherical, name).item() == pytest.approx(getattr(flat, name).item(), rel=1e-13)
    assert spherical.entropy().item() == pytest.approx(flat.entropy().item(), rel=1e-13)


@pytest.mark.parametrize("d", [1, 2, 3, 8, 64, 512])
def test_draws_have_the_radius_and_the_marginals_of_the_density(d):
    """‖u‖² is Beta(d/2, 2) and (1 + u_k)/2 is Beta((d + 3)/2, (d + 3)/2); each KS fails for one seed in 10^6."""
    u = standard(d).sample((50_000,))
    squared = u.square().sum(-1)
    assert (squared <= 1).all()
    assert stats.kstest(squared.numpy(), stats.beta(d / 2, 2).cdf).pvalue > RATE
    for k in {0, d - 1}:
        marginal = stats.beta((d + 3) / 2, (d + 3) / 2)
        assert stats.kstest((1 + u[:, k].numpy()) / 2, marginal.cdf).pvalue > RATE


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_integrals(d):
    """Mass, variance, roughness and entropy by quadrature over the radius."""
    kernel = standard(d)
    nodes, weights = special.roots_jacobi(60, 0, 0)
    radius, weights = (nodes + 1) / 2, weights / 2
    points = torch.zeros(60, d, dtype=DOUBLE)
    points[:, 0] = torch.from_numpy(radius)
    log_density = kernel.log_prob(points).numpy()
    surface = d * math.pi ** (d / 2) / math.gamma(d / 2 + 1) * radius ** (d - 1)

    def integral(values):
        return (weights * surface * values).sum()

    density = torch.from_numpy(log_density).exp().numpy()
    assert integral(density) == pytest.approx(1, rel=1e-12)
    assert integral(density * radius**2) / d == pytest.approx(kernel.variance[0].item(), rel=1e-12)
    assert integral(density**2) == pytest.approx(kernel.roughness.item(), rel=1e-12)
    assert integral(-density * log_density) == pytest.approx(kernel.entropy().item(), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("d", [1, 64, 4096])
def test_finite_at_extremes(d, dtype):
    for scale in (1e-8, 1.0, 1e6):
        loc = torch.zeros(3, d, dtype=dtype, requires_grad=True)
        radius = torch.full((3, 1), scale, dtype=dtype, requires_grad=True)
        kernel = SphericalEpanechnikov(loc, radius)
        x = kernel.rsample()
        assert kernel.support.check(x).all()
        for value in (x, kernel.log_prob(x.detach() / 2), kernel.entropy(), kernel.log_roughness, kernel.variance):
            assert value.isfinite().all()
            gradients = torch.autograd.grad(value.sum(), (loc, radius), retain_graph=True, allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in gradients)


def test_gradients():
    loc = torch.tensor([[0.1, -0.2, 0.3]], dtype=DOUBLE, requires_grad=True)
    scale = torch.tensor([[1.3, 0.8, 2.0]], dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[0.2, 0.1, -0.4]], dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m, r, v: SphericalEpanechnikov(m, r).log_prob(v), (loc, scale, x))


def test_contract():
    kernel = SphericalEpanechnikov(torch.zeros(4, 3), torch.ones(4, 1), validate_args=True)
    assert (kernel.batch_shape, kernel.event_shape) == ((4,), (3,))
    assert kernel.rsample((2,)).shape == (2, 4, 3)
    assert kernel.log_prob(torch.zeros(2, 4, 3)).shape == (2, 4)
    assert kernel.entropy().shape == kernel.roughness.shape == (4,)
    wide = copy.deepcopy(kernel).expand((5, 4))
    assert wide.rsample().shape == (5, 4, 3)
    with pytest.raises(ValueError, match="support"):
        kernel.log_prob(torch.full((4, 3), 0.9))
    with pytest.raises(ValueError, match="scale"):
        SphericalEpanechnikov(torch.zeros(3), -1.0, validate_args=True)
    outside = torch.full((3,), 0.9, requires_grad=True)
    log_prob = SphericalEpanechnikov(torch.zeros(3), 1.0, validate_args=False).log_prob(outside)
    assert log_prob == -math.inf
    log_prob.exp().backward()
    assert outside.grad.isfinite().all()


@pytest.mark.parametrize("d", [1, 2, 7, 64, 4096])
def test_marginal_roughness(d):
    """∫ of the squared marginal density by quadrature, and the limit of many dimensions, a Gaussian's."""
    kernel = standard(d)
    x, weights = special.roots_jacobi(400, 0, 0)
    marginal = stats.beta((d + 3) / 2, (d + 3) / 2)
    reach = min(1, 12 / math.sqrt(d + 4))
    expected = (weights * reach * (marginal.pdf((1 + reach * x) / 2) / 2) ** 2).sum()
    assert kernel.marginal_roughness[0].item() == pytest.approx(expected, rel=1e-9)
    if d == 1:
        assert kernel.marginal_roughness.item() == pytest.approx(0.6)
    if d == 4096:
        gaussian = 1 / (2 * math.sqrt(math.pi) * kernel.stddev[0].item())
        assert kernel.marginal_roughness[0].item() == pytest.approx(gaussian, rel=1e-3)
    penalty = kernel_penalty(kernel, 0.3, 50)
    assert penalty.shape == (d,)
    assert penalty[0].item() == pytest.approx(0.3 * expected / 50)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_posterior(kind):
    """Moments to 6 standard errors (one seed in 10^8), gradients by autograd's own rules, no density."""
    half = torch.full((3,), 0.5, dtype=DOUBLE)
    prior = Independent(Uniform(-half, half) if kind == "uniform" else Normal(0 * half, half), 1)
    loc = torch.tensor([[0.1, 2.0, -1.0]] * 2, dtype=DOUBLE, requires_grad=True)
    q = SphericalPosterior(SphericalEpanechnikov(loc, 1.5), prior, 0.4)
    assert (q.batch_shape, q.event_shape) == ((2,), (3,))
    torch.testing.assert_close(q.support_length, torch.full((2, 3), 1.0 if kind == "uniform" else 0.5, dtype=DOUBLE))
    z = q.rsample((50_000,))
    for sample, value in ((z, q.mean), ((z - q.mean) ** 2, q.variance)):
        assert ((sample.mean(0) - value).abs() < 6 * sample.std(0) / len(z) ** 0.5).all()
    (gradient,) = torch.autograd.grad(z[0].sum(), loc)
    torch.testing.assert_close(gradient, torch.full((2, 3), 0.4, dtype=DOUBLE))
    assert q.expand((4, 2)).sample().shape == (4, 2, 3)
    with pytest.raises(NotImplementedError, match="an integral in d dimensions"):
        q.log_prob(z)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("d", [1, 2, 64])
def test_every_draw_has_a_density(dtype, d):
    for loc, scale in ((0.0, 1.0), (3.7, 1e-8), (-1e4, 1e-3), (1e6, 1.0)):
        kernel = SphericalEpanechnikov(torch.full((d,), loc, dtype=dtype), scale)
        assert kernel.log_prob(kernel.rsample((2000,))).isfinite().all()
    unchecked = SphericalEpanechnikov(torch.zeros(d, dtype=dtype), 1.0, validate_args=False)
    outside = torch.full((d,), 1.001, dtype=dtype, requires_grad=True)
    assert unchecked.log_prob(outside) == -math.inf
    (gradient,) = torch.autograd.grad(unchecked.log_prob(outside).exp(), outside)
    assert gradient.isfinite().all()
