r"""Entropies of kernel posteriors.

The entropy of w·X + U depends on the prior's spread S (B or σ) and the ratio ρ = w/S alone: H = ln S + h(ρ). The curve
h is computed once for each kernel and prior, by quadrature, and kept as a Chebyshev series in ln ρ; evaluating it
costs a few dozen multiplications and is differentiable. Where h has a closed form or a limit, that is used instead.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor

from evae.distributions.kernel import Kernel
from evae.distributions.kernels import GaussianKernel
from evae.distributions.quadrature import posterior_panels
from evae.distributions.smoothing import smoothed_by_normal, smoothed_by_uniform

Prior = Literal["uniform", "normal"]

_LARGEST = math.log(1e8)
_DEGREE = 240


def smoothed_entropy(kernel: type[Kernel], prior: Prior, width: Tensor, spread: Tensor) -> Tensor:
    """H of the kernel of half-width ``width`` convolved with the prior of spread ``spread`` (B or σ), in nats.

    Relative to max(1, |H|) the error is below 1e-9 for ratios up to 1e8, in double precision.
    """
    if kernel is GaussianKernel and prior == "normal":
        return ((width.square() + spread.square()) * (2 * math.pi * math.e)).log() / 2
    curve = _curve(kernel, prior)  # type: ignore[arg-type]
    ratio = width / spread
    small = ratio.clamp(max=math.exp(curve.pieces[0].low))
    h = curve.slope * small if prior == "uniform" else _normal_limit(kernel, small)
    x = ratio.log()
    for piece in curve.pieces:
        inner = 2 * (x.clamp(piece.low, piece.high) - piece.low) / (piece.high - piece.low) - 1
        h = torch.where(x < piece.low, h, _clenshaw(piece.coefficients, inner))
    return spread.log() + h + (x - curve.pieces[-1].high).clamp(min=0)


def _normal_limit(kernel: type[Kernel], ratio: Tensor) -> Tensor:
    """Beside the prior a narrow kernel adds its variance; its other cumulants enter at the eighth power of ρ."""
    return (math.log(2 * math.pi * math.e) + torch.log1p(kernel.standard_variance * ratio.square())) / 2


@dataclass(frozen=True)
class _Piece:
    """h as a Chebyshev series in ln ρ, from ``low`` to ``high``."""

    low: float
    high: float
    coefficients: tuple[float, ...]


@dataclass(frozen=True)
class _Curve:
    """h in pieces; for a uniform prior it is ``slope``·ρ below the first."""

    pieces: tuple[_Piece, ...]
    slope: float


@cache
def _curve(kernel: type[Kernel], prior: Prior) -> _Curve:
    if prior == "normal":
        return _Curve((_piece(kernel, prior, math.log(1e-2), _LARGEST),), slope=0.0)
    # Up to here the smoothed edges of the prior do not meet, and H = ln B + 2ρ (-∫ G ln G), G the kernel's CDF.
    start = 0.5 if kernel.bounded else 1 / 90
    slope = _entropy_by_quadrature(kernel, prior, start) / start
    # A kink of the kernel meets an edge of its support at w = B.
    cuts = [start, 1.0] if kernel.bounded and kernel.kink_at_zero else [start]
    ends = [*map(math.log, cuts), _LARGEST]
    return _Curve(tuple(_piece(kernel, prior, low, high) for low, high in pairwise(ends)), slope)


def _piece(kernel: type[Kernel], prior: Prior, low: float, high: float) -> _Piece:
    def values(inner: NDArray[np.float64]) -> NDArray[np.float64]:
        ratios = np.exp(low + (inner + 1) / 2 * (high - low))
        return np.array([_entropy_by_quadrature(kernel, prior, ratio) for ratio in ratios])

    return _Piece(low, high, tuple(chebyshev.chebinterpolate(values, _DEGREE).tolist()))  # type: ignore[type-var]


def _entropy_by_quadrature(kernel: type[Kernel], prior: Prior, ratio: float) -> float:
    """h(ρ) = -2 ∫ q ln q over positive z, for spread 1."""
    one, width = torch.ones((), dtype=torch.float64), torch.tensor(ratio, dtype=torch.float64)
    z, weights = posterior_panels(kernel, prior == "uniform", width, one)
    smoothed = smoothed_by_uniform if prior == "uniform" else smoothed_by_normal
    log_q = smoothed(kernel, z, width, one)
    return 2 * float((torch.where(log_q > -700, -log_q * log_q.exp(), 0.0) * weights).sum())


def _clenshaw(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """The Chebyshev series at x in [-1, 1]."""
    ahead, after = torch.zeros_like(x), torch.zeros_like(x)
    for c in reversed(coefficients[1:]):
        ahead, after = c + 2 * x * ahead - after, ahead
    return coefficients[0] + x * ahead - after
