"""Student's t: a smoothing kernel with tails like |t|⁻⁵, and the distribution of vectors."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from evae.distributions.base import Symmetric
from evae.distributions.kernel import Kernel


class StudentKernel(Kernel):
    r"""Student's t with 4 degrees of freedom, k(t) = 3/8 (1 + t²/4)^(-5/2), on all of R.

    Of the even numbers of degrees of freedom, for which the CDF is algebraic, 4 is the least with a variance. With
    s = t/√(4 + t²) in (-1, 1) the CDF is (1 + s)²(2 - s)/4, that of the Epanechnikov kernel at s: the one is the
    other's image under t = 2s/√(1 - s²).
    """

    bounded = False
    heavy_tailed = True
    standard_variance = 2.0
    standard_roughness = 315 * math.pi / 4096
    standard_entropy = 25 / 6 - math.log(12)

    @staticmethod
    def _log_density(t: Tensor) -> Tensor:
        return math.log(3 / 8) - 2.5 * torch.log1p((t / 2).square())

    @staticmethod
    def _cumulative(t: Tensor) -> Tensor:
        u = one_plus_s(t)
        tail = u.square() * (3 - u) / 4
        return torch.where(t < 0, tail, 1 - tail)

    @staticmethod
    def _log_cumulative(t: Tensor) -> Tensor:
        u = one_plus_s(t)
        log_tail = 2 * u.log() + torch.log1p(-u / 3) + math.log(3 / 4)
        return torch.where(t < 0, log_tail, torch.log1p(-u.square() * (3 - u) / 4))

    @classmethod
    def _quantile(cls, p: Tensor) -> Tensor:
        """By Newton's method for u = 1 + s in u²(3 - u) = 4p, in the lower tail; twice differentiable in p."""
        tail = torch.where(p <= 0.5, p, 1 - p)
        at_edge = tail <= 0
        q = torch.where(at_edge, 0.25, tail)
        u = (q.detach() * (4 / 3)).sqrt()
        with torch.no_grad():
            for _ in range(6):  # the function is convex below u = 1: it comes from the right after the first step
                u = u - (u.square() * (3 - u) - 4 * q) / (6 * u - 3 * u.square())
        for _ in range(2):  # the derivatives are those of Newton's steps, each of which doubles their order
            u = u - (u.square() * (3 - u) - 4 * q) / (6 * u - 3 * u.square())
        t = torch.where(at_edge, -math.inf, -2 * (1 - u) / (u * (2 - u)).sqrt())
        return torch.where(p <= 0.5, t, -t)

    @classmethod
    def _draw(cls, shape: torch.Size, like: Tensor) -> Tensor:
        """A normal draw over √(χ²/4), whose χ² of 4 degrees of freedom is -2 ln of two uniforms."""
        smallest = torch.finfo(like.dtype).tiny
        log_uniforms = torch.zeros(shape, dtype=like.dtype, device=like.device)
        for _ in range(2):
            log_uniforms += torch.rand(shape, dtype=like.dtype, device=like.device).clamp_(min=smallest).log_()
        return torch.randn(shape, dtype=like.dtype, device=like.device) * (-2 / log_uniforms).sqrt()


def one_plus_s(t: Tensor) -> Tensor:
    """1 + s at -|t|, 1 - |t|/√(4 + t²), without cancellation."""
    x = torch.where(t < 0, -t, t)  # whose derivative at 0 is that from above, while that of ``abs`` is 0
    root = torch.hypot(x, torch.full_like(x, 2.0))
    return 4 / root / (root + x)


class MultivariateStudentT(Symmetric):
    r"""Student's t of vectors, with ν degrees of freedom and independent scales, but one common mixing variable.

    p(x) = Γ((ν + n)/2) / (Γ(ν/2) (νπ)^{n/2} Π s_i) · (1 + δ/ν)^{-(ν + n)/2}, δ = Σ ((x_i - m_i)/s_i)². Coordinates are
    uncorrelated, not independent: a draw is m + s·ε·√(ν/χ²), ε standard normal and χ² common to all coordinates.

    Args:
        df: ν, positive, of every distribution of the batch.
        loc: m, shape (..., *event).
        scale: s, positive, of a shape that broadcasts to that of ``loc``.
        event_ndims: number of axes of an event: 1 for vectors, 3 for images.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(
        self,
        df: float,
        loc: Tensor,
        scale: Tensor,
        event_ndims: int = 1,
        validate_args: bool | None = None,
    ) -> None:
        if not df > 0:
            raise ValueError(f"the degrees of freedom must be positive, not {df}")
        self.df, self.loc, self.scale = df, loc, scale.expand_as(loc)
        place = loc.ndim - event_ndims
        super().__init__(loc.shape[:place], loc.shape[place:], validate_args=validate_args)

    @property
    def size(self) -> int:
        """n, the number of coordinates of an event."""
        return self.event_shape.numel()

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """m; not defined for ν of at most 1, where it is the median of each coordinate."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """ν/(ν - 2) s², infinite for ν of at most 2."""
        factor = self.df / (self.df - 2) if self.df > 2 else math.inf
        return self.scale.square() * factor

    @property
    def spread(self) -> tuple[str, Tensor]:
        """The name and the values of the scale."""
        return "scale", self.scale

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape + batch_shape + event_shape``, differentiable in ``loc`` and ``scale``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        events = shape[: len(shape) - len(self.event_shape)]
        half = torch.full(events, self.df / 2, dtype=self.loc.dtype, device=self.loc.device)
        mixing = (half / torch._standard_gamma(half)).sqrt()  # √(ν/χ²)
        normal = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.scale * normal * mixing.reshape(*events, *[1] * len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        axes = tuple(range(-len(self.event_shape), 0))
        distance = ((value - self.loc) / self.scale).square().sum(axes)
        exponent = (self.df + self.size) / 2
        return (
            log_constant(self.df, self.size) - self.scale.log().sum(axes) - exponent * torch.log1p(distance / self.df)
        )

    def entropy(self) -> Tensor:
        """-ln C + (ν + n)/2 (ψ((ν + n)/2) - ψ(ν/2)) + Σ ln s_i, in nats, shape ``batch_shape``."""
        axes = tuple(range(-len(self.event_shape), 0))
        half, whole = (torch.tensor(x, dtype=torch.float64) for x in (self.df / 2, (self.df + self.size) / 2))
        standard = whole * (torch.digamma(whole) - torch.digamma(half)) - log_constant(self.df, self.size)
        return self.scale.log().sum(axes) + standard.item()


def log_constant(df: float, size: int) -> float:
    """ln Γ((ν + n)/2) - ln Γ(ν/2) - n/2 ln νπ: of the density of n coordinates with ν degrees of freedom."""
    return math.lgamma((df + size) / 2) - math.lgamma(df / 2) - size / 2 * math.log(df * math.pi)
