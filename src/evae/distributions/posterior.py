"""The posterior of EVAE: a kernel, scaled by the bandwidth, around a draw from the prior."""

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Uniform, constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size

from evae.distributions.base import Expandable, expanded
from evae.distributions.entropy import smoothed_entropy
from evae.distributions.kernel import Kernel
from evae.distributions.quadrature import double
from evae.distributions.smoothing import smoothed_by_normal, smoothed_by_uniform


def coordinates(distribution: Distribution) -> Distribution:
    """The distribution of each coordinate of an ``Independent``, else the distribution itself."""
    base: Distribution = distribution.base_dist if isinstance(distribution, Independent) else distribution
    return base


def posterior_spread(q: Distribution) -> tuple[str | None, Tensor | None]:
    """Name and values of the parameter of a posterior's width: r, a standard deviation or a concentration."""
    base = coordinates(q)
    if isinstance(base, Normal):
        return "standard deviation", base.scale
    return ("r", base.scale) if isinstance(base, Kernel) else getattr(base, "spread", (None, None))


class SmoothedPrior(Expandable):
    """The law of b · K + U, with a symmetric unimodal kernel K and a prior draw U, in one or more dimensions."""

    _parameters = ("kernel", "prior", "bandwidth")
    kernel: Distribution
    prior: Distribution
    bandwidth: Tensor

    def __repr__(self) -> str:
        return f"{type(self).__name__}(kernel: {self.kernel}, prior: {self.prior}, bandwidth: {self.bandwidth.shape})"

    @property
    def support_length(self) -> Tensor:
        """B: length of the uniform prior's support, or standard deviation of the Gaussian prior."""
        prior = coordinates(self.prior)
        assert isinstance(prior, Uniform | Normal)
        return prior.high - prior.low if isinstance(prior, Uniform) else prior.scale

    @property
    def spread(self) -> tuple[str, Tensor]:
        """The name and the values of the kernel's scale r."""
        scale: Tensor = self.kernel.scale  # type: ignore[attr-defined]
        return "r", scale

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


class KernelPosterior(SmoothedPrior):
    r"""The law of Z = b · K + U with K a kernel and U an independent draw from the prior (paper, eq. 11–12).

    It is the expectation of the kernel density estimate 1/(m b) Σ_j K((z - U_j)/b) over prior draws U_j, one
    latent dimension at a time. With c = b·μ + E[U] its centre and w = b·r the kernel's half-width in latent units::

        uniform prior, length B     q(z) = (1/B) ∫ k over [(z - c - B/2)/w, (z - c + B/2)/w]
        Gaussian prior, sd σ        q(z) = ∫ k(x) φ((z - c - w x)/σ)/σ dx

    ``log_prob`` has a relative error below 1e-9: the integrals are taken by Gauss–Legendre quadrature with nodes
    enough for the kernel's smoothness, in double precision where the device has it. With a Gaussian prior a value
    takes about 4 kB of memory; evaluate millions of values in parts.

    Args:
        kernel: the kernel at (μ, r) = (``loc``, ``scale``), before the bandwidth is applied.
        prior: ``Uniform(-B/2, B/2)`` or ``Normal(0, B)``.
        bandwidth: b > 0.

    Raises:
        TypeError: the prior is neither Uniform nor Normal.

    Examples:
        >>> kernel = Epanechnikov(torch.zeros(3), torch.ones(3))
        >>> q = KernelPosterior(kernel, Uniform(-0.05, 0.05), bandwidth=100 ** (-2 / 9))
        >>> q.rsample((5,)).shape
        torch.Size([5, 3])
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"bandwidth": constraints.positive}

    kernel: Kernel
    prior: Uniform | Normal

    def __init__(
        self,
        kernel: Kernel,
        prior: Uniform | Normal,
        bandwidth: Tensor | float,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(prior, Uniform | Normal):
            raise TypeError(f"KernelPosterior: the prior must be Uniform or Normal, not {type(prior).__name__}")
        _, bandwidth = broadcast_all(kernel.loc, bandwidth)
        shape = torch.broadcast_shapes(bandwidth.shape, prior.batch_shape)
        self.bandwidth, self.kernel = expanded(bandwidth, shape), kernel.expand(shape)
        self.prior = prior if prior.batch_shape == shape else prior.expand(shape)  # type: ignore[no-untyped-call]
        super().__init__(shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        if isinstance(self.prior, Normal) or not self.kernel.bounded:
            return constraints.real
        # Rounded as rsample rounds, so that no draw falls outside.
        low = self.bandwidth * (self.kernel.loc - self.kernel.scale) + self.prior.low
        return constraints.interval(low, self.bandwidth * (self.kernel.loc + self.kernel.scale) + self.prior.high)

    def entropy(self) -> Tensor:
        """H(q) = -∫ q ln q in nats, shape ``batch_shape``; it depends on w and the prior's spread alone."""
        prior: Literal["uniform", "normal"] = "uniform" if isinstance(self.prior, Uniform) else "normal"
        width = double(self.bandwidth) * double(self.kernel.scale)
        return smoothed_entropy(type(self.kernel), prior, width, double(self.support_length)).to(self.kernel.loc.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln q(value), shape ``value.shape`` broadcast with ``batch_shape``; -inf outside the support.

        The support is rounded outward, by more than ``rsample`` rounds, so that every draw has a density.
        """
        if self._validate_args:
            self._validate_sample(value)
        centre = double(self.bandwidth) * double(self.kernel.loc) + self.prior.mean
        distance = (double(value) - centre).abs()
        if isinstance(self.prior, Uniform) and self.kernel.bounded:
            reach = double(self.bandwidth) * double(self.kernel.scale) + double(self.support_length) / 2
            slack = 4 * torch.finfo(self.kernel.loc.dtype).eps * (centre.abs() + self.prior.mean.abs() + reach)
            edge = reach * (1 - 8 * torch.finfo(reach.dtype).eps)
            distance = torch.where(distance <= reach + slack, torch.minimum(distance, edge), distance)
        return self.log_density_at(distance).to(torch.promote_types(value.dtype, self.kernel.loc.dtype))

    def log_density_at(self, distance: Tensor) -> Tensor:
        """ln q at a distance, 0 or positive, from the centre of the posterior, about which it is symmetric."""
        width = double(self.bandwidth) * double(self.kernel.scale)
        smoothed = smoothed_by_uniform if isinstance(self.prior, Uniform) else smoothed_by_normal
        return smoothed(type(self.kernel), distance, width, double(self.support_length))
