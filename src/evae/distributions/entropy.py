r"""Entropies of kernel posteriors.

The entropy of w·X + U depends on the prior's spread S (B or σ) and the ratio ρ = w/S alone: H = ln S + h(ρ). With a
normal prior h(ρ) = ½ ln 2πe(1 + v) - J(ρ), where v = Var X·ρ² and J is the negentropy, the KL to the normal of the same
mean and variance. The curves h and J are computed by quadrature once for each kernel, and evaluated as differentiable
Chebyshev series in ln ρ on short intervals, or by a closed form or limit where there is one.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray
from torch import Tensor

from evae.distributions.kernel import Kernel
from evae.distributions.kernels import GaussianKernel
from evae.distributions.quadrature import posterior_panels
from evae.distributions.smoothing import smoothed_by_normal, smoothed_by_uniform

Prior = Literal["uniform", "normal"]

_LARGEST = math.log(1e8)
_NEGLIGIBLE = 1e-3  # v at which J, about (excess kurtosis)²·v⁴/48, is below 2e-13
_NEGLIGIBLE_HEAVY = 1e-7  # the same of a kernel without kurtosis, whose J is about v² by its tails
_DEGREE = 240
_SHORT_DEGREE = 16
_INTERVAL = 0.5  # of ln ρ, at most


def smoothed_entropy(kernel: type[Kernel], prior: Prior, width: Tensor, spread: Tensor) -> Tensor:
    """H of the kernel of half-width ``width`` convolved with the prior of spread ``spread`` (B or σ), in nats.

    Relative to max(1, |H|) the error is below 1e-9 for ratios up to 1e8, in double precision.
    """
    ratio = width / spread
    if prior == "normal":
        log_variance = torch.log1p(kernel.standard_variance * ratio.square())
        return spread.log() + (math.log(2 * math.pi * math.e) + log_variance) / 2 - negentropy(kernel, ratio)
    pieces, slope = _curve(kernel, prior)  # type: ignore[arg-type]
    h = _evaluated(pieces, ratio, slope * ratio.clamp(max=math.exp(pieces[0].low)))
    return spread.log() + h + (ratio.log() - pieces[-1].high).clamp(min=0)


def negentropy(kernel: type[Kernel], ratio: Tensor) -> Tensor:
    """J(ρ) = KL(q‖N(E q, Var q)) of a kernel posterior q with a normal prior; absolute error below 2e-12."""
    nothing = torch.zeros_like(ratio)
    return nothing if kernel is GaussianKernel else _evaluated(_curve(kernel, "normal")[0], ratio, nothing)  # type: ignore[arg-type]


def _evaluated(pieces: "list[_Piece]", ratio: Tensor, below: Tensor) -> Tensor:
    """The curve at ρ, with the values ``below`` its first piece; beyond its last piece, the value at its end."""
    x = ratio.log()
    for piece in pieces:
        below = torch.where(x < piece.low, below, _interpolated(piece, x))
    return below


@dataclass(frozen=True)
class _Piece:
    """h or J from ``low`` to ``high`` in ln ρ: the coefficients of a Chebyshev series for each of equal intervals."""

    low: float
    high: float
    coefficients: list[list[float]]


@cache
def _curve(kernel: type[Kernel], prior: Prior) -> tuple[list[_Piece], float]:
    """h (uniform prior) or J (normal prior) in pieces, and the slope: h is slope·ρ below the first piece, J is 0."""
    if prior == "normal":
        least = _NEGLIGIBLE_HEAVY if kernel.heavy_tailed else _NEGLIGIBLE
        return [_piece(kernel, prior, math.log(least / kernel.standard_variance) / 2, _LARGEST)], 0.0
    # Up to here the smoothed edges of the prior do not meet, and H = ln B + 2ρ (-∫ G ln G), G the kernel's CDF.
    start = 0.5 if kernel.bounded else 3e-4 if kernel.heavy_tailed else 1 / 90
    slope = _entropy_by_quadrature(kernel, prior, start) / start
    # A kink of the kernel meets an edge of its support at w = B.
    cuts = [start, 1.0] if kernel.bounded and kernel.kink_at_zero else [start]
    ends = [*map(math.log, cuts), _LARGEST]
    return [_piece(kernel, prior, low, high) for low, high in pairwise(ends)], slope


def _piece(kernel: type[Kernel], prior: Prior, low: float, high: float) -> _Piece:
    """Short series, cheap to evaluate, of one long series, which takes the fewest quadratures."""

    def value(x: NDArray[np.float64]) -> NDArray[np.float64]:
        h = np.array([_entropy_by_quadrature(kernel, prior, ratio) for ratio in np.exp(x)])
        normal = (math.log(2 * math.pi * math.e) + np.log1p(kernel.standard_variance * np.exp(2 * x))) / 2
        return normal - h if prior == "normal" else h

    whole = Chebyshev.interpolate(value, _DEGREE, (low, high))
    cuts = np.linspace(low, high, math.ceil((high - low) / _INTERVAL) + 1)
    short = [Chebyshev.interpolate(whole, _SHORT_DEGREE, ends) for ends in pairwise(cuts)]
    return _Piece(low, high, [series.coef.tolist() for series in short])


def _entropy_by_quadrature(kernel: type[Kernel], prior: Prior, ratio: float) -> float:
    """h(ρ) = -2 ∫ q ln q over positive z, for spread 1."""
    one, width = torch.ones((), dtype=torch.float64), torch.tensor(ratio, dtype=torch.float64)
    z, weights = posterior_panels(kernel, prior == "uniform", width, one)
    z, weights = z[weights > 0], weights[weights > 0]  # half of the panels have no width
    smoothed = smoothed_by_uniform if prior == "uniform" else smoothed_by_normal
    log_q = smoothed(kernel, z, width, one)
    return 2 * float((torch.where(log_q > -700, -log_q * log_q.exp(), 0.0) * weights).sum())


def _interpolated(piece: _Piece, x: Tensor) -> Tensor:
    """h at x; beyond the ends of the piece, at them."""
    intervals = len(piece.coefficients)
    position = (x.clamp(piece.low, piece.high) - piece.low) * (intervals / (piece.high - piece.low))
    interval = position.detach().long().clamp(max=intervals - 1)
    inner = 2 * (position - interval) - 1
    # T_{k+j} = 2 T_k T_j - T_{k-j} makes 2k + 1 polynomials of k + 1.
    polynomials = torch.stack([torch.ones_like(inner), inner], -1)
    while polynomials.shape[-1] <= _SHORT_DEGREE:
        following = 2 * polynomials[..., -1:] * polynomials[..., 1:] - polynomials[..., :-1].flip(-1)
        polynomials = torch.cat([polynomials, following], -1)
    return (polynomials * x.new_tensor(piece.coefficients)[interval]).sum(-1)
