"""The stereographic chart: a bijection onto the sphere, its Jacobian, densities that integrate to 1."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, TransformedDistribution
from torch.nn import functional

from evae.distributions import Stereographic
from evae.distributions.constraints import unit_vector
from evae.distributions.quadrature import legendre

DOUBLE = torch.float64


def direction(d, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(d, generator=generator, dtype=DOUBLE), dim=0).to(dtype)


def centres(d, dtype=DOUBLE):
    """Some in general position, at either end of the last axis and next to them."""
    last = torch.eye(d, dtype=DOUBLE)[-1]
    near = [functional.normalize(sign * last + 1e-6 * direction(d), dim=0) for sign in (1, -1)]
    return [x.to(dtype) for x in (direction(d), last, -last, *near)]


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("d", [2, 3, 64, 4096])
def test_on_the_sphere_and_back(d, dtype):
    for centre in centres(d, dtype):
        chart = Stereographic(centre)
        for size in (1e-6, 0.1, 1.0, 3.0, 100.0):
            y = size * direction(d - 1, 1, dtype)
            x = chart(y)
            assert x.dtype == dtype
            assert unit_vector.check(x)
            # far out, the chart is 1 + |y|² times coarser than the sphere
            tolerance = 60 * torch.finfo(dtype).eps * (size + (1 + size**2) / 2)
            assert (chart.inv(x) - y).norm() <= tolerance
        torch.testing.assert_close(chart(torch.zeros(d - 1, dtype=dtype)), centre)


@given(
    d=st.integers(2, 8),
    seed=st.integers(0, 10**6),
    size=st.floats(1e-3, 1e3),
)
@settings(max_examples=100, deadline=None)
def test_round_trip(d, seed, size):
    chart = Stereographic(direction(d, seed))
    y = size * direction(d - 1, seed + 1)
    torch.testing.assert_close(chart.inv(chart(y)), y, rtol=1e-8, atol=1e-12)
    x = direction(d, seed + 2)
    torch.testing.assert_close(chart(chart.inv(x)), x, rtol=1e-8, atol=1e-12)


def test_projection_from_the_antipode():
    """Centre, y in the plane through the equator and the image lie on the line from -centre: x = -c + t (y + c)."""
    centre = torch.tensor([0.0, 0.0, 1.0], dtype=DOUBLE)
    y = torch.tensor([0.3, -1.2], dtype=DOUBLE)
    x = Stereographic(centre)(y)
    line = torch.cat([y, torch.ones(1, dtype=DOUBLE)])
    torch.testing.assert_close(x + centre, (x + centre)[2] * line)


@pytest.mark.parametrize("d", [2, 3, 6])
@pytest.mark.parametrize("size", [0.0, 0.4, 1.0, 5.0])
def test_jacobian(d, size):
    """Of an embedding: ½ ln det JᵀJ; and conformal, all singular values are equal."""
    for centre in centres(d):
        chart = Stereographic(centre)
        y = size * direction(d - 1, 3)
        jacobian = torch.autograd.functional.jacobian(chart, y)
        values = torch.linalg.svdvals(jacobian)
        torch.testing.assert_close(chart.log_abs_det_jacobian(y, chart(y)), values.log().sum())
        torch.testing.assert_close(values, values[:1].expand_as(values))
        torch.testing.assert_close(chart.inv.log_abs_det_jacobian(chart(y), y), -values.log().sum())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("d", [2, 3, 4096])
def test_extremes_are_finite(d, dtype):
    last = torch.eye(d, dtype=dtype)[-1]
    for centre in (last, -last, direction(d, 0, dtype)):
        chart = Stereographic(centre)
        for size in (torch.finfo(dtype).tiny, 1e-20, 1e10, 1e25, torch.finfo(dtype).max / 8):
            y = size * functional.normalize(torch.ones(d - 1, dtype=dtype), dim=0)
            y.requires_grad_()
            x = chart(y)
            assert unit_vector.check(x)
            assert torch.linalg.vector_norm(x.sub(-centre if size > 1 else centre)) < 1e-3
            log_volume = chart.log_abs_det_jacobian(y, x)
            expected = (d - 1) * (math.log(2) - (2 * math.log(size) if size > 1 else 0))
            assert log_volume.item() == pytest.approx(expected, rel=1e-5)
            assert torch.autograd.grad(x.sum() + log_volume, y)[0].isfinite().all()
            assert chart.inv(x.detach()).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_the_antipode_is_far_away(dtype):
    chart = Stereographic(torch.eye(3, dtype=dtype)[-1])
    y = chart.inv(-chart.centre)
    assert y.norm().item() == pytest.approx(2 / torch.finfo(dtype).eps)
    torch.testing.assert_close(chart(y), -chart.centre)


def normal_on_the_sphere(d, scale):
    mean = 0.3 * torch.ones(d - 1, dtype=DOUBLE)
    covariance = scale**2 * (torch.eye(d - 1, dtype=DOUBLE) + 0.3)
    return TransformedDistribution(MultivariateNormal(mean, covariance), [Stereographic(direction(d, 4))])


@pytest.mark.parametrize("scale", [0.2, 0.7])
def test_integral_over_the_circle(scale):
    angles = 2 * math.pi * torch.arange(20_000, dtype=DOUBLE) / 20_000
    density = normal_on_the_sphere(2, scale).log_prob(torch.stack([angles.cos(), angles.sin()], -1)).exp()
    assert density.mean().item() * 2 * math.pi == pytest.approx(1, rel=1e-10)


@pytest.mark.parametrize("scale", [0.2, 0.7])
def test_integral_over_the_sphere(scale):
    """Heights by Gauss-Legendre, angles by the trapezoidal rule."""
    heights, weights = legendre(300, torch.zeros(1, dtype=DOUBLE))
    height = 2 * heights.unsqueeze(1) - 1
    angles = 2 * math.pi * torch.arange(600, dtype=DOUBLE) / 600
    radius = (1 - height.square()).sqrt()
    x = torch.stack([radius * angles.cos(), radius * angles.sin(), height.expand(-1, 600)], -1)
    density = normal_on_the_sphere(3, scale).log_prob(x).exp()
    assert (weights @ density.mean(1)).item() * 4 * math.pi == pytest.approx(1, rel=1e-8)


def test_draws_and_shapes():
    q = normal_on_the_sphere(4, 0.5)
    assert q.event_shape == (4,)
    x = q.rsample((5, 2))
    assert x.shape == (5, 2, 4)
    assert q.log_prob(x).shape == (5, 2)
    chart = Stereographic(direction(4))
    assert chart.forward_shape((7, 3)) == (7, 4)
    assert chart.inverse_shape((7, 4)) == (7, 3)
    assert chart.with_cache(1)._cache_size == 1
    assert chart.with_cache(0) is chart
    for bad in (chart.forward_shape, chart.inverse_shape):
        with pytest.raises(ValueError, match="the last dimension must be"):
            bad((7, 5))


@pytest.mark.parametrize("centre", [torch.ones(1), torch.ones(3), torch.eye(3), torch.tensor([math.nan, 0.0])], ids=str)
def test_bad_centre(centre):
    with pytest.raises(ValueError, match="must be one unit vector"):
        Stereographic(centre)
