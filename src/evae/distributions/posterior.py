"""The posterior of EVAE: a kernel, scaled by the bandwidth, around a draw from the prior."""

import math
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, Uniform, constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size

from evae.distributions.kernels import Kernel


class KernelPosterior(Distribution):
    r"""The law of Z = b · K + U with K a kernel and U an independent draw from the prior (paper, eq. 11–12).

    It is the expectation of the kernel density estimate 1/(m b) Σ_j K((z - U_j)/b) over prior draws U_j, one
    latent dimension at a time. With c = b·μ + E[U] its centre and w = b·r the kernel's half-width in latent units::

        uniform prior, length B     q(z) = (1/B) ∫ k over [(z - c - B/2)/w, (z - c + B/2)/w]
        Gaussian prior, sd σ        q(z) = ∫ k(x) φ((z - c - w x)/σ)/σ dx

    ``log_prob`` is exact to rounding in both cases: the integrals are taken by Gauss–Legendre quadrature with
    nodes enough for the kernel's smoothness, in double precision where the device has it.

    Args:
        kernel: the kernel at (μ, r) = (``loc``, ``scale``), before the bandwidth is applied.
        prior: ``Uniform(-B/2, B/2)`` or ``Normal(0, B)``.
        bandwidth: b > 0.
        validate_args: as in torch.distributions.

    Raises:
        TypeError: the prior is neither Uniform nor Normal.

    Example:
        >>> kernel = Epanechnikov(torch.zeros(3), torch.ones(3))
        >>> q = KernelPosterior(kernel, Uniform(-0.05, 0.05), bandwidth=100 ** (-2 / 9))
        >>> q.rsample((5,)).shape
        torch.Size([5, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"bandwidth": constraints.positive}
    has_rsample = True

    kernel: Kernel
    prior: Uniform | Normal
    bandwidth: Tensor

    def __init__(
        self,
        kernel: Kernel,
        prior: Uniform | Normal,
        bandwidth: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(prior, Uniform | Normal):
            raise TypeError(f"KernelPosterior: the prior must be Uniform or Normal, not {type(prior).__name__}")
        _, self.bandwidth = broadcast_all(kernel.loc, bandwidth)
        shape = torch.broadcast_shapes(self.bandwidth.shape, prior.batch_shape)
        self.bandwidth = self.bandwidth.expand(shape)
        self.kernel, self.prior = kernel.expand(shape), prior.expand(shape)  # type: ignore[no-untyped-call]
        super().__init__(shape, validate_args=validate_args)

    @property
    def support_length(self) -> Tensor:
        """B: length of the uniform prior's support, or standard deviation of the Gaussian prior."""
        return self.prior.high - self.prior.low if isinstance(self.prior, Uniform) else self.prior.scale

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        if isinstance(self.prior, Normal) or not self.kernel.bounded:
            return constraints.real
        # Rounded as rsample rounds, so that no draw falls outside.
        low = self.bandwidth * (self.kernel.loc - self.kernel.scale) + self.prior.low
        return constraints.interval(low, self.bandwidth * (self.kernel.loc + self.kernel.scale) + self.prior.high)

    def expand(self, batch_shape: _size, _instance: "KernelPosterior | None" = None) -> "KernelPosterior":
        new = self._get_checked_instance(KernelPosterior, _instance)  # type: ignore[no-untyped-call]
        batch_shape = torch.Size(batch_shape)
        new.kernel, new.prior = self.kernel.expand(batch_shape), self.prior.expand(batch_shape)  # type: ignore[no-untyped-call]
        new.bandwidth = self.bandwidth.expand(batch_shape)
        super(KernelPosterior, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return self.bandwidth * self.kernel.mean + self.prior.mean

    @property
    def mode(self) -> Tensor:  # a convolution of symmetric unimodal densities is symmetric and unimodal
        return self.mean

    @property
    def variance(self) -> Tensor:
        return self.bandwidth.square() * self.kernel.variance + self.prior.variance

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Algorithm 1: b·(μ + r·k) + U, differentiable in μ, r and b (and the prior's parameters)."""
        return self.bandwidth * self.kernel.rsample(sample_shape) + self.prior.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln q(value), shape ``value.shape`` broadcast with ``batch_shape``; -inf outside the support."""
        if self._validate_args:
            self._validate_sample(value)
        width = _double(self.bandwidth) * _double(self.kernel.scale)
        # Symmetric about the centre: the distance to it, 0 or positive, is all that matters.
        distance = (_double(value) - _double(self.bandwidth) * _double(self.kernel.loc) - self.prior.mean).abs()
        smooth = _smooth_uniform if isinstance(self.prior, Uniform) else _smooth_normal
        return smooth(type(self.kernel), distance, width, _double(self.support_length)).to(value.dtype)


def _double(x: Tensor) -> Tensor:
    """Float64, where the device has it: differences of nearby numbers decide the tails of the posterior."""
    return x if x.device.type == "mps" else x.double()


@cache
def _legendre(nodes: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Nodes and weights of Gauss–Legendre quadrature on [0, 1]."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple((1 + x) / 2), tuple(weights / 2)


def _quadrature(nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    x, weights = _legendre(nodes)
    return like.new_tensor(x), like.new_tensor(weights)


def _smooth_uniform(kernel: type[Kernel], distance: Tensor, width: Tensor, length: Tensor) -> Tensor:
    """ln of (1/B) ∫ k over [(distance - B/2)/w, (distance + B/2)/w]."""
    lower, upper = (distance - length / 2) / width, (distance + length / 2) / width
    inside = lower < 1
    # Clipped to the support, the interval is the whole of it, ends at its edge, or is B/w wide: each width is
    # taken without a difference of nearly equal numbers.
    low = torch.where(inside, lower, 0.0).clamp(min=-1)
    span = torch.where(upper < 1, torch.where(lower > -1, length / width, upper + 1), 1 - low)
    nodes, weights = _quadrature(kernel.quadrature_nodes, distance)
    log_density = kernel._log_density(low.unsqueeze(-1) + span.unsqueeze(-1) * nodes)
    log_mass = span.log() + torch.logsumexp(log_density + weights.log(), -1)
    return torch.where(inside, log_mass - length.log(), -math.inf)


# φ(s)/φ(s*) is below 1e-17 where s² exceeds s*² by this much; 64 nodes resolve the rest to 1e-13.
_NEGLIGIBLE = 80.0
_NORMAL_NODES = 64


def _smooth_normal(kernel: type[Kernel], distance: Tensor, width: Tensor, sigma: Tensor) -> Tensor:
    r"""ln of ∫ φ(s) k((distance - σ s)/w)/w ds, over the part of the support where φ is not negligible.

    The support is s in [a, e], a = (distance - w)/σ, e = (distance + w)/σ > 0. φ is largest there at
    s* = max(a, 0); factored out of the integral, it leaves terms in (0, 1], at any distance from the centre.
    """
    a = (distance - width) / sigma
    peak = a.clamp(min=0)
    low = a.clamp(min=-math.sqrt(_NEGLIGIBLE))
    # √(s*² + L) - s*, without cancellation; from s* down to low it is s* - low.
    reach = _NEGLIGIBLE / ((peak.square() + _NEGLIGIBLE).sqrt() + peak)
    span = torch.minimum(reach + (peak - low), 2 * width / sigma - (low - a))
    nodes, weights = _quadrature(_NORMAL_NODES, distance)
    step = span.unsqueeze(-1) * nodes
    s = low.unsqueeze(-1) + step
    x = 1 - (sigma / width).unsqueeze(-1) * ((low - a).unsqueeze(-1) + step)
    exponent = (peak.unsqueeze(-1) - s) * (peak.unsqueeze(-1) + s) / 2
    log_terms = kernel._log_density(x) + exponent + weights.log()
    log_integral = span.log() + torch.logsumexp(log_terms, -1)
    return log_integral - peak.square() / 2 - math.log(2 * math.pi) / 2 - width.log()


__all__ = ["KernelPosterior"]
