"""The unit sphere and balls as torch constraints, and the maps onto them from all vectors.

Importing this module registers ``transform_to`` of both and ``biject_to`` of balls; no bijection of R^d is onto a
sphere (``Stereographic`` is one of R^(d-1) onto all of it but a point).
"""

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, Transform, biject_to, constraints, transform_to


class _UnitVector(constraints.Constraint):
    """Vectors of length 1, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        return (value.norm(dim=-1) - 1).abs() <= 64 * torch.finfo(value.dtype).eps * value.shape[-1] ** 0.5


unit_vector = _UnitVector()


class Ball(constraints.Constraint):
    """The (elliptical) ball of half-axes ``scale`` around ``loc``, rounded outward."""

    event_dim = 1

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale

    def check(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).square().sum(-1).sqrt() <= self.radius

    @property
    def radius(self) -> Tensor:
        """1 and what rounding may add to it, in units of ``scale``."""
        return 1 + 8 * torch.finfo(self.loc.dtype).eps * (1 + (self.loc / self.scale).abs().amax(-1))


class ToUnitVector(Transform):
    """x ↦ x/‖x‖, from all vectors onto the unit sphere; 0 is mapped to the first unit vector. No bijection."""

    domain = constraints.real_vector
    codomain = unit_vector

    def _call(self, x: Tensor) -> Tensor:
        size = x.detach().abs().amax(-1, keepdim=True)  # so that squares neither overflow nor vanish
        first = torch.zeros_like(x)
        first[..., 0] = 1
        x = torch.where(size > 0, x / torch.where(size > 0, size, 1.0), first)
        return x / x.norm(dim=-1, keepdim=True)

    def _inverse(self, y: Tensor) -> Tensor:
        return y


class ToUnitBall(Transform):
    """x ↦ x/√(1 + ‖x‖²), a bijection of R^d and the open unit ball."""

    domain = constraints.real_vector
    codomain = constraints.real_vector  # a Ball has a place and a type
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x / self._root(x).unsqueeze(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        room = (1 - y.square().sum(-1, keepdim=True)).clamp(min=torch.finfo(y.dtype).eps)
        return y * room.rsqrt()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """-(d + 2)/2 · ln(1 + ‖x‖²), shape ``x.shape[:-1]``."""
        return -(x.shape[-1] + 2) * self._root(x).log()

    @staticmethod
    def _root(x: Tensor) -> Tensor:
        """√(1 + ‖x‖²), without overflow."""
        size = x.detach().abs().amax(-1).clamp(min=1)
        return size * torch.hypot(1 / size, (x / size.unsqueeze(-1)).norm(dim=-1))


@transform_to.register(unit_vector)  # type: ignore[untyped-decorator]
def _to_unit_vector(constraint: _UnitVector) -> Transform:
    return ToUnitVector()


@biject_to.register(Ball)  # type: ignore[untyped-decorator]
@transform_to.register(Ball)  # type: ignore[untyped-decorator]
def _to_ball(constraint: Ball) -> Transform:
    return ComposeTransform([ToUnitBall(), AffineTransform(constraint.loc, constraint.scale, event_dim=1)])
