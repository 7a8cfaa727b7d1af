"""Smoothing kernels as torch distributions.

A kernel is a symmetric density k on R in standard form (centre 0, scale 1), moved to a centre ``loc`` and
stretched by ``scale``::

    K(x) = k((x - loc) / scale) / scale

For kernels of bounded support the standard support is [-1, 1], so that ``scale`` is the support's half-width r
of the paper (arXiv 2405.12783, section 3).

A further kernel is one class: five constants and three functions of the standard form.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size


class Kernel(Distribution):
    r"""A symmetric location-scale density, sampled by inverting its distribution function.

    Subclasses supply the standard form: the constants below, and ``_log_density``, ``_cumulative`` and
    ``_quantile``, elementwise functions of tensors.

    Args:
        loc: centre, any real number.
        scale: spread, positive; the support's half-width where the support is bounded.
        validate_args: as in torch.distributions.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }
    has_rsample = True

    bounded: ClassVar[bool] = True  # support [-1, 1]; else all of R
    standard_variance: ClassVar[float]
    standard_roughness: ClassVar[float]  # ∫ k²
    standard_entropy: ClassVar[float]  # -∫ k ln k, in nats
    # ∫ k over any interval inside [-1, 1] is exact to rounding with so many Gauss–Legendre nodes; kernels with
    # a kink at 0 need them on each side of it.
    quadrature_nodes: ClassVar[int] = 16
    kink_at_zero: ClassVar[bool] = False

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    # The standard form --------------------------------------------------------------------------------------

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        """ln k(t), for t inside the standard support."""
        raise NotImplementedError  # pragma: no cover

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        """∫ k up to t, for t inside the standard support; relatively exact in the lower tail."""
        raise NotImplementedError  # pragma: no cover

    @staticmethod
    def _quantile(p: Tensor) -> Tensor:
        """The t with ∫ k up to t equal to p, for p in [0, 1]."""
        raise NotImplementedError  # pragma: no cover

    # torch.distributions' contract --------------------------------------------------------------------------

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        if not self.bounded:
            return constraints.real
        return constraints.interval(self.loc - self.scale, self.loc + self.scale)

    def expand(self, batch_shape: _size, _instance: "Kernel | None" = None) -> "Kernel":
        new = self._get_checked_instance(Kernel, _instance)  # type: ignore[no-untyped-call]
        batch_shape = torch.Size(batch_shape)
        new.loc, new.scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        super(Kernel, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.standard_variance * self.scale.square()

    @property
    def stddev(self) -> Tensor:  # sqrt(scale²) would underflow for scale below 1e-19 in float32
        return math.sqrt(self.standard_variance) * self.scale

    @property
    def roughness(self) -> Tensor:
        """I(K) = ∫ K² = (∫ k²) / scale (paper, section 3), shape ``batch_shape``."""
        return self.standard_roughness / self.scale

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape + batch_shape``, differentiable in ``loc`` and ``scale``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * self._quantile(uniform)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln K(value); -inf outside the support, where the gradient is 0."""
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / self.scale
        if not self.bounded:
            return self._log_density(t) - self.scale.log()
        # Evaluated at 0 instead of outside, lest the discarded branch send a NaN into the gradient.
        inside = t.abs() < 1
        log_density = self._log_density(torch.where(inside, t, 0.0)) - self.scale.log()
        return torch.where(inside, log_density, -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / self.scale
        return self._cumulative(t.clamp(-1, 1) if self.bounded else t)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * self._quantile(value)

    def entropy(self) -> Tensor:
        return self.standard_entropy + self.scale.log()


class Epanechnikov(Kernel):
    r"""The Epanechnikov kernel, K(x) = 3/(4r) · (1 - ((x - μ)/r)²) for |x - μ| ≤ r.

    Of all kernels of equal variance it has the least roughness ∫K² (Lemma 3.2). ``loc`` is μ and ``scale`` is r.
    A draw is μ + r · 2 sin(asin(2p - 1)/3) with p uniform on [0, 1]; it has the law of Algorithm 2's median of
    three uniforms, from one.

    Example:
        >>> kernel = Epanechnikov(torch.tensor(0.0), torch.tensor(2.0))
        >>> kernel.roughness  # 3 / (5 r)
        tensor(0.3000)
    """

    standard_variance = 1 / 5
    standard_roughness = 3 / 5
    standard_entropy = 5 / 3 - math.log(3)
    quadrature_nodes = 2

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return math.log(0.75) + torch.log1p(-t.square())

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        return (1 + t).square() * (2 - t) / 4

    @staticmethod
    def _quantile(p: Tensor) -> Tensor:
        return 2 * torch.sin(torch.asin(2 * p - 1) / 3)


KERNELS: dict[str, type[Kernel]] = {"epanechnikov": Epanechnikov}
