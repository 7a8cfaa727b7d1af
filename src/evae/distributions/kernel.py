"""The base of all smoothing kernels: a location-scale family with torch.distributions' whole contract."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size

from evae.distributions.base import Symmetric


class Kernel(Symmetric):
    r"""The density K(x) = k((x - loc)/scale)/scale of a symmetric density k in standard form (centre 0, scale 1).

    A kernel is one subclass, in ``kernels``: the constants below, and ``_log_density``, ``_cumulative`` and
    ``_quantile`` of the standard form, elementwise functions of tensors.

    Args:
        loc: centre, any real number.
        scale: spread, positive; the half-width r of a bounded support (arXiv 2405.12783, section 3).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {
        "loc": constraints.real,
        "scale": constraints.positive,
    }

    bounded: ClassVar[bool] = True  # support [-1, 1]; else all of R
    heavy_tailed: ClassVar[bool] = False  # tails of a power of t, and no log-concave density
    standard_variance: ClassVar[float]
    standard_roughness: ClassVar[float]  # ∫ k²
    standard_entropy: ClassVar[float]  # -∫ k ln k, in nats
    # ∫ k over any interval inside [-1, 1] is exact to rounding with this many Gauss–Legendre nodes; kernels with
    # a kink at 0 need them on each side of it.
    quadrature_nodes: ClassVar[int] = 16
    kink_at_zero: ClassVar[bool] = False
    roots: ClassVar[tuple[int, ...]] = ()  # of the draws, see ``_draw``

    def __init__(self, loc: Tensor | float, scale: Tensor | float, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        """ln k(t), for t inside the standard support."""
        raise NotImplementedError  # pragma: no cover

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        """∫ k up to t, for t inside the standard support; relatively exact in the lower tail."""
        raise NotImplementedError  # pragma: no cover

    @staticmethod
    def _log_cumulative(t: Tensor) -> Tensor:
        """ln of ``_cumulative``, without underflow; needed of unbounded kernels only."""
        raise NotImplementedError  # pragma: no cover

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        """The t with ∫ k up to t equal to p, for p in [0, 1].

        Here for bounded kernels, by Newton's method inside a shrinking bracket; three times differentiable in p.
        """
        tail = torch.where(p <= 0.5, p, 1 - p)  # F is relatively exact in its lower tail
        at_edge, constant, spacing = tail <= 0, tail.detach(), torch.finfo(p.dtype).eps / 2
        with torch.no_grad():
            # Near its edge k is about (1 - |t|)^m and F about (1 - |t|)^(m + 1).
            t = ((2 * constant.clamp(min=0)) ** (1 / (len(cls.roots) + 1))).clamp(min=spacing) - 1
            low, high = -torch.ones_like(t), torch.zeros_like(t)
            for _ in range(20):  # 1e-300 takes 10
                excess = cls._cumulative(t) - constant
                low, high = torch.where(excess < 0, t, low), torch.where(excess < 0, high, t)
                step = t - excess / cls._log_density(t).exp()
                t = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
            t = torch.where(at_edge, -0.5, t).clamp(min=spacing - 1)
        # The derivatives are those of Newton's steps: the first, with a constant slope, has the first derivative 1/k(t)
        # of the quantile, and each further one doubles the order; the value stays.
        t = t + (tail - constant) / cls._log_density(t).exp()
        t = t - (cls._cumulative(t) - tail - (cls._cumulative(t) - tail).detach()) / cls._log_density(t).exp()
        t = torch.where(at_edge, -1.0, t)
        return torch.where(p <= 0.5, t, -t)

    @classmethod
    def _draw(cls, shape: torch.Size, like: Tensor) -> Tensor:
        """Standard draws: through the quantile function, or for densities proportional to (1 - |t|^a)^m exactly.

        There |t|^a is Beta(1/a, m + 1), a product of independent powers of uniforms, so that t is a uniform draw on
        [-1, 1] times the root of another for each of ``roots``, 1 + a, 1 + 2a, ..., 1 + m a.
        """
        p = torch.rand(shape, dtype=like.dtype, device=like.device)
        if not cls.roots:
            return cls._quantile(p if cls.bounded else p.clamp(min=torch.finfo(p.dtype).tiny))
        t = 2 * p - 1
        log_root = torch.zeros_like(t)
        for root in cls.roots:
            log_root += torch.rand_like(t).log_().div_(root)
        return t * log_root.exp_()

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        if not self.bounded:
            return constraints.real
        return constraints.interval(self.loc - self.scale, self.loc + self.scale)

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
        return self.loc + self.scale * self._draw(shape, self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln K(value); -inf outside the support, where the gradient is 0.

        The support is rounded outward, by more than ``rsample`` rounds, so that every draw has a density.
        """
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / self.scale
        if not self.bounded:
            return self._log_density(t) - self.scale.log()
        eps = torch.finfo(t.dtype).eps
        outside = (value - self.loc).abs() > self.scale + 4 * eps * (self.loc.abs() + self.scale)  # False for NaN
        # Evaluated at 0 where the value is outside, so that the discarded branch has a finite gradient.
        inner = torch.where(outside, 0.0, t).clamp(eps / 2 - 1, 1 - eps / 2)
        return torch.where(outside, -math.inf, self._log_density(inner) - self.scale.log())

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        t = (value - self.loc) / self.scale
        return self._cumulative(t.clamp(-1, 1) if self.bounded else t)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * self._quantile(value)

    def entropy(self) -> Tensor:
        return self.standard_entropy + self.scale.log()

    @property
    def efficiency(self) -> float:
        """Roughness of the Epanechnikov kernel over this one's, at equal variance: at most 1 (Lemma 3.2)."""
        return 3 / (5 * math.sqrt(5)) / (math.sqrt(self.standard_variance) * self.standard_roughness)
