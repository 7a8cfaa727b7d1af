"""Exact KLs between bounded kernels of one shape, against high-precision quadrature."""

import math

import mpmath
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Uniform, kl_divergence

from evae.distributions import KERNELS
from evae.distributions.bounded import POWERS

SHAPES = {name: kernel for name, kernel in KERNELS.items() if kernel in POWERS}
PLACES = [(0, 1), (0, 0.5), (0.3, 0.7), (0.3, 0.69), (0.25, 0.25), (0.999, 1e-4), (-0.2, 0.1), (0.0, 1e-6), (0.7, 0.3)]


def reference(m, loc, scale):
    """KL of a kernel (1 - t²)^m to the one at 0 with half-width 1, to 20 digits."""
    with mpmath.workdps(30):
        peak = 1 / mpmath.quad(lambda t: (1 - t * t) ** m, [-1, 1])
        loc, scale = mpmath.mpf(loc), mpmath.mpf(scale)

        def integrand(t):
            q, p = (1 - t * t) ** m, max(1 - (loc + scale * t) ** 2, mpmath.mpf(10) ** -60) ** m
            return peak * q * mpmath.log(q / (scale * p)) if q else mpmath.mpf(0)

        return float(mpmath.quad(integrand, [-1, -0.99, 0, 0.99, 1]))


def pair(name, loc, scale, half=1.0, dtype=torch.float64):
    kernel = SHAPES[name]
    loc, scale, zero, half = (torch.tensor(x, dtype=dtype) for x in (loc, scale, 0.0, half))
    return kernel(loc, scale), kernel(zero, half)


@pytest.mark.parametrize(("loc", "scale"), PLACES)
@pytest.mark.parametrize("name", SHAPES)
def test_kl_of_one_shape(name, loc, scale):
    expected = reference(POWERS[SHAPES[name]], loc, scale)
    for half in (1.0, 0.05):
        q, p = pair(name, loc * half, scale * half, half)
        assert kl_divergence(q, p).item() == pytest.approx(expected, rel=1e-10, abs=1e-11)


@pytest.mark.parametrize("name", SHAPES)
def test_kl_outside_is_infinite(name):
    for loc, scale in ((0.6, 0.5), (0.0, 1.1), (-1.0, 1e-3)):
        assert kl_divergence(*pair(name, loc, scale)).item() == math.inf


@pytest.mark.parametrize("name", SHAPES)
def test_gradients(name):
    def kl(loc, scale):
        kernel = SHAPES[name]
        return kl_divergence(kernel(loc, scale), kernel(torch.zeros_like(loc), torch.ones_like(loc)))

    loc = torch.tensor([0.0, 0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.9, 0.3, 0.05, 0.24], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kl, (loc, scale))
    edge = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)  # where the supports touch
    (slope,) = torch.autograd.grad(kl(edge, 1 - edge).sum(), edge)
    assert slope.isfinite().all()


@pytest.mark.parametrize("name", [n for n, k in KERNELS.items() if k.bounded])
def test_kl_to_a_uniform_prior(name):
    """ln(B/r) - H(K), which is 0.125 nats for an Epanechnikov kernel as wide as the prior."""
    kernel = KERNELS[name](torch.tensor(0.25, dtype=torch.float64), torch.tensor(0.75, dtype=torch.float64))
    kl = kl_divergence(kernel, Uniform(-1.0, 1.0)).item()
    assert kl == pytest.approx(math.log(2 / 0.75) - kernel.standard_entropy, rel=1e-12)


@given(st.floats(-1, 1), st.floats(1e-8, 1), st.sampled_from(sorted(SHAPES)))
def test_kl_is_finite_and_not_negative(position, scale, name):
    q, p = pair(name, position * (1 - scale) * (1 - 1e-6), scale * (1 - 1e-6), dtype=torch.float32)
    assert 0 <= kl_divergence(q, p).item() < 200
