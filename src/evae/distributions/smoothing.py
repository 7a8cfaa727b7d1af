r"""Densities of w·X + U, X from a standard kernel and U from a prior, at a distance from the centre.

Gauss-Legendre quadrature over the pieces on which the integrand is smooth and not negligible, written so that no step
subtracts nearly equal numbers. In double precision the relative error is below 1e-9 for w/B and w/σ from 1e-6 to 1e6.
"""

import math

import torch
from torch import Tensor

from evae.distributions.kernel import Kernel
from evae.distributions.kernels import GaussianKernel
from evae.distributions.quadrature import legendre
from evae.distributions.student import StudentKernel, one_plus_s

# Relative to a peak of e^0, terms below e^-_NEGLIGIBLE/2 = 4e-18 do not count; 64 nodes resolve the rest to 1e-12.
_NEGLIGIBLE = 80.0
_NODES = 64
_MIXTURE_NODES = 128


def smoothed_by_uniform(kernel: type[Kernel], distance: Tensor, width: Tensor, length: Tensor) -> Tensor:
    """ln of (1/B) ∫ k over [(distance - B/2)/w, (distance + B/2)/w], distance |z - c|, width w = b·r, length B."""
    if kernel is StudentKernel:
        return _student_by_uniform(distance, width, length)
    smooth = _bounded_by_uniform if kernel.bounded else _unbounded_by_uniform
    return smooth(kernel, distance, width, length)


def smoothed_by_normal(kernel: type[Kernel], distance: Tensor, width: Tensor, sigma: Tensor) -> Tensor:
    """ln of ∫ k(x) φ((distance - w x)/σ)/σ dx."""
    if kernel is GaussianKernel:
        variance = width.square() + sigma.square()
        return -distance.square() / (2 * variance) - (2 * math.pi * variance).log() / 2
    if kernel is StudentKernel:
        return _student_by_normal(distance, width, sigma)
    smooth = _bounded_by_normal if kernel.bounded else _unbounded_by_normal
    return smooth(kernel, distance, width, sigma)


def _split(start: Tensor, span: Tensor, kink: Tensor, is_kink: bool) -> list[tuple[Tensor, Tensor]]:
    """The interval of length ``span`` from ``start`` as (start, span) pieces, cut at ``kink`` where there is one."""
    if not is_kink:
        return [(start, span)]
    before = torch.minimum((kink - start).clamp(min=0), span)
    return [(start, before), (start + before, span - before)]


def _bounded_by_uniform(kernel: type[Kernel], distance: Tensor, width: Tensor, length: Tensor) -> Tensor:
    lower, upper = (distance - length / 2) / width, (distance + length / 2) / width
    outside = lower >= 1
    # Clipped to the support, the interval is the whole of it, ends at its edge, or is B/w wide: each width is
    # taken without a difference of nearly equal numbers.
    low = torch.where(outside, 0.0, lower).clamp(min=-1)
    span = torch.where(upper < 1, torch.where(lower > -1, length / width, upper + 1), 1 - low)
    nodes, weights = legendre(kernel.quadrature_nodes, distance)
    mass = torch.zeros_like(distance)
    for start, part in _split(low, span, torch.zeros_like(low), kernel.kink_at_zero):
        x = start.unsqueeze(-1) + part.unsqueeze(-1) * nodes
        mass = mass + part * (kernel._log_density(x).exp() * weights).sum(-1)
    return torch.where(outside, -math.inf, mass.log() - length.log())


def _unbounded_by_uniform(kernel: type[Kernel], distance: Tensor, width: Tensor, length: Tensor) -> Tensor:
    lower, ratio = (distance - length / 2) / width, length / width
    # A narrow interval by quadrature, a wide one as a difference of tails; each is kept in its range where the other
    # is used.
    narrow = ratio <= 1
    nodes, weights = legendre(kernel.quadrature_nodes, distance)
    parts = []
    for start, part in _split(lower, ratio.clamp(max=1), torch.zeros_like(lower), kernel.kink_at_zero):
        x = start.unsqueeze(-1) + part.unsqueeze(-1) * nodes
        parts.append(kernel._log_density(x) + (part.unsqueeze(-1) * weights).clamp(min=1e-300).log())
    by_quadrature = torch.logsumexp(torch.cat(parts, -1), -1)
    tail = kernel._log_cumulative(-lower)
    # 100 beyond the centre, or below the tail, the density is negligible; its derivatives would overflow farther out.
    step = torch.minimum(ratio.clamp(min=1), 100 + (-lower).clamp(min=0))
    beyond = kernel._log_cumulative(-lower - step)
    by_tails = tail + torch.log1p(-(beyond - tail).exp())
    return torch.where(narrow, by_quadrature, by_tails) - length.log()


def _bounded_by_normal(kernel: type[Kernel], distance: Tensor, width: Tensor, sigma: Tensor) -> Tensor:
    r"""∫ φ(s) k((distance - σ s)/w)/w ds over the part of the support where φ is not negligible.

    The support is s in [a, e], a = (distance - w)/σ, e = (distance + w)/σ > 0. φ is largest there at
    s* = max(a, 0); factored out of the integral, it leaves terms in (0, 1], at any distance from the centre.
    """
    a = (distance - width) / sigma
    peak = a.clamp(min=0)
    low = a.clamp(min=-math.sqrt(_NEGLIGIBLE))
    span = torch.minimum(_reach(peak) + (peak - low), 2 * width / sigma - (low - a))
    nodes, weights = legendre(_NODES, distance)
    total = torch.zeros_like(distance)
    almost = 1 - torch.finfo(distance.dtype).eps  # the edge itself, of density 0, is reached by rounding only
    for start, part in _split(low - a, span, width / sigma, kernel.kink_at_zero):
        from_edge = start.unsqueeze(-1) + part.unsqueeze(-1) * nodes  # s - a
        x = (1 - (sigma / width).unsqueeze(-1) * from_edge).clamp(-almost, almost)
        s = a.unsqueeze(-1) + from_edge
        exponent = (peak.unsqueeze(-1) - s) * (peak.unsqueeze(-1) + s) / 2
        total = total + part * ((kernel._log_density(x) + exponent).exp() * weights).sum(-1)
    return total.log() - peak.square() / 2 - math.log(2 * math.pi) / 2 - width.log()


def _unbounded_by_normal(kernel: type[Kernel], distance: Tensor, width: Tensor, sigma: Tensor) -> Tensor:
    r"""The same integral for kernels with tails like exp(-|x|), on either side of their centre s = distance/σ.

    The integrand is about φ(s)·exp(∓λ s), λ = σ/w: not negligible within the reach of its peak.
    """
    centre, slope = distance / sigma, sigma / width
    peak = torch.minimum(slope, centre)  # on the near side, s < centre
    near_reach = _reach(slope - peak)
    near_gap = (centre - peak - math.sqrt(_NEGLIGIBLE)).clamp(min=0)  # from the centre to where the piece begins
    near_span = centre - peak + near_reach - near_gap
    nodes, weights = legendre(_NODES, distance)
    parts = []
    for sign, gap, span in ((-1, near_gap, near_span), (1, torch.zeros_like(centre), _reach(centre + slope))):
        from_centre = gap.unsqueeze(-1) + span.unsqueeze(-1) * nodes
        s = centre.unsqueeze(-1) + sign * from_centre
        log_density = kernel._log_density(slope.unsqueeze(-1) * from_centre)
        parts.append(log_density - s.square() / 2 + span.log().unsqueeze(-1) + weights.log())
    return torch.logsumexp(torch.cat(parts, -1), -1) - math.log(2 * math.pi) / 2 - width.log()


def _student_by_uniform(distance: Tensor, width: Tensor, length: Tensor) -> Tensor:
    r"""The same for Student's kernel, in closed form: the CDF is a cubic in s = t/√(4 + t²), see ``StudentKernel``.

    With v = 1 - s at the ends l < u of the interval, the mass is (v_l - v_u)(3(v_l + v_u) - v_l² - v_l v_u - v_u²)/4;
    s_u² - s_l² = 4(u - l)(u + l)/((4 + l²)(4 + u²)) gives v_l - v_u = s_u - s_l without cancellation.
    """
    at_end = distance == math.inf
    distance = torch.where(at_end, 1.0, distance)
    lower, upper, ratio = (distance - length / 2) / width, (distance + length / 2) / width, length / width
    around = lower < 0  # the centre is inside the interval
    least = torch.finfo(lower.dtype).tiny  # beyond 1e153 widths
    v_low, v_high = (one_plus_s(t).clamp(min=least) for t in (lower, upper))  # 1 - |s|
    s_low, s_high = (t.abs() / torch.hypot(t, torch.full_like(t, 2.0)) for t in (lower, upper))
    beyond, two = lower.clamp(min=0), torch.full_like(lower, 2.0)
    total = torch.where(around, 1.0, s_low + s_high)
    log_squares = 2 * (torch.hypot(beyond, two).log() + torch.hypot(upper, two).log())
    log_apart = (4 * ratio).log() + (beyond + upper).log() - log_squares
    log_difference = torch.where(around, (s_high + s_low).log(), log_apart - total.log())
    v_low = torch.where(around, 2 - v_low, v_low)
    # of the larger one, so that squares of small ones do not underflow
    share = v_high / v_low
    log_sums = v_low.log() + (3 * (1 + share) - v_low * (1 + share + share.square())).log()
    return torch.where(at_end, -math.inf, log_difference + log_sums - math.log(4) - length.log())


def _student_by_normal(distance: Tensor, width: Tensor, sigma: Tensor) -> Tensor:
    r"""The same integral for Student's kernel, ∫ N(distance; 0, σ² + w²/λ) dG(λ), G a Gamma law of shape and rate 2.

    As an integral over ln λ it is analytic in a strip of half-width π/2 and falls exponentially on both sides: the
    trapezoidal rule of step h has the relative error e^(-π²/h), below 1e-9.
    """
    at_end = distance == math.inf
    distance = torch.where(at_end, 1.0, distance).unsqueeze(-1)
    ratio = distance.squeeze(-1) / width / 2
    low = -18 - 2 * torch.hypot(ratio, torch.ones_like(ratio)).log()  # e^-45 of the peak, farther left for far values
    # e^(-2λ) is e^-44 at 3.1; from 40 σ on, where the prior's own density is negligible, e^-45 of the peak is nearer.
    high = torch.where(distance.squeeze(-1) > 40 * sigma, low + 21.4, 3.1)
    step = (high - low) / _MIXTURE_NODES
    y = low.unsqueeze(-1) + step.unsqueeze(-1) * torch.arange(_MIXTURE_NODES, dtype=low.dtype, device=low.device)
    log_variance = torch.logaddexp(2 * sigma.log().unsqueeze(-1), 2 * width.log().unsqueeze(-1) - y)
    exponent = 2 * y - 2 * y.exp() - (log_variance + (distance * (-log_variance / 2).exp()).square()) / 2
    log_density = torch.logsumexp(exponent, -1) + step.log() + math.log(4) - math.log(2 * math.pi) / 2
    return torch.where(at_end, -math.inf, log_density)


def _reach(slope: Tensor) -> Tensor:
    """How far slope·δ + δ²/2 stays below _NEGLIGIBLE/2: √(slope² + L) - slope, without cancellation."""
    return _NEGLIGIBLE / ((slope.square() + _NEGLIGIBLE).sqrt() + slope)
