"""Exact KL divergences between bounded kernels of one shape, (1 - t²)^m on [-1, 1]: uniform, Epanechnikov, ..."""

import math
from functools import cache

import numpy as np
import torch
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from torch import Tensor

from evae.distributions.kernel import Kernel
from evae.distributions.kernels import Biweight, Epanechnikov, Triweight, UniformKernel

POWERS: dict[type[Kernel], int] = {UniformKernel: 0, Epanechnikov: 1, Biweight: 2, Triweight: 3}  # m

_FAR = 3.0  # from here on the series in 1/c² has these terms, of which the next is below 1e-17
_TERMS = 17


def kl_same_shape(q: Kernel, p: Kernel) -> Tensor:
    r"""KL(q‖p) of two kernels of a shape k(t) = a (1 - t²)^m; infinite unless the support of q lies in that of p.

    With x = z in units of p, uniform draws t of k, and c± = (p.scale ± (q.loc - p.loc))/q.scale, at least 1,

        KL = ln(p.scale/q.scale) - H(k) - ln a - m (2 ln(q.scale/p.scale) + G(c₊) + G(c₋)),   G(c) = E ln(c - t).

    Both are float64; the absolute error is below 1e-12, relative to the largest of these terms.
    """
    m = POWERS[type(q)]
    ratio, offset = q.scale / p.scale, q.loc - p.loc
    room = (p.scale - q.scale - offset, p.scale - q.scale + offset)  # between the edges of the supports
    inside = (room[0] >= 0) & (room[1] >= 0)
    standard = -q.standard_entropy - _log_peak(type(q))
    if m == 0:
        return torch.where(inside, standard - ratio.log(), math.inf)
    distances = [torch.where(inside, r, 0.0) / q.scale for r in room]
    logs = sum(_expected_log(m, distance) for distance in distances)
    return torch.where(inside, standard - ratio.log() - m * (2 * ratio.log() + logs), math.inf)


def _log_peak(kernel: type[Kernel]) -> float:
    return float(kernel._log_density(torch.zeros((), dtype=torch.float64)))


def _expected_log(m: int, distance: Tensor) -> Tensor:
    """G(1 + distance) = E ln(1 + distance - t), distance at least 0.

    By parts, with the distribution function F: F(-c) ln(c - 1) + F(c) ln(c + 1) - Q(c), Q(c) = ∫ (F(c) - F(t))/(c - t)
    over [-1, 1], a polynomial; where c is large, ln c - Σ_j E t^{2j}/(2j c^{2j}).
    """
    at_edge, at_far_edge, rest, series = (distance.new_tensor(x) for x in _coefficients(m))
    near = distance.clamp(max=_FAR)
    tail = torch.xlogy(_polynomial(at_edge, near), near.clamp(min=torch.finfo(near.dtype).tiny))
    close = tail + _polynomial(at_far_edge, near) * (2 + near).log() - _polynomial(rest, near)
    c = 1 + distance.clamp(min=_FAR)
    return torch.where(distance < _FAR, close, c.log() - _polynomial(series, c.square().reciprocal()))


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """Horner's scheme, constant first."""
    value = torch.zeros_like(x)
    for coefficient in coefficients.flip(0):
        value = value * x + coefficient
    return value


@cache
def _coefficients(m: int) -> tuple[NDArray[np.float64], ...]:
    """F(-c), F(c) and Q(c) as polynomials in c - 1, and the series in 1/c², constants first."""
    density = Polynomial([1.0, 0.0, -1.0]) ** m
    density = density / (density.integ()(1.0) - density.integ()(-1.0))
    cumulative = density.integ(lbnd=-1)
    quotient = Polynomial([0.0])  # ∫ (c^n - t^n)/(c - t) dt = Σ_{i<n} c^{n-1-i} ∫ t^i dt
    for n, coefficient in enumerate(cumulative.coef):
        for i in range(0, n, 2):
            quotient += float(coefficient) * 2 / (i + 1) * Polynomial.basis(n - 1 - i)
    shift = Polynomial([1.0, 1.0])
    parts = cumulative(-shift), cumulative(shift), quotient(shift)
    at_edge, at_far_edge, rest = (np.asarray(part.coef, np.float64) for part in parts)
    at_edge[: m + 1] = 0  # exactly: F(-1 - x) begins with x^(m+1)
    powers = [float((density * Polynomial.basis(2 * j)).integ(lbnd=-1)(1.0)) / (2 * j) for j in range(1, _TERMS + 1)]
    return at_edge, at_far_edge, rest, np.array([0.0, *powers])
