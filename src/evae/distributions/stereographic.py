"""A chart of the unit sphere: the stereographic projection."""

import math

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.types import _size

from evae.distributions.constraints import unit_vector


class Stereographic(Transform):
    r"""From R^(d-1) onto the unit sphere of R^d, by stereographic projection from the point ``-centre``.

    ``y = 0`` is mapped to the centre, ``‖y‖ = 1`` to the equator around it, and y to::

        H (2 y, 1 - ‖y‖²) / (1 + ‖y‖²)

    with H the Householder reflection that takes e_d to the centre. The map is conformal: it scales all lengths at y by
    2/(1 + ‖y‖²), which is twice at the centre. ``log_abs_det_jacobian`` is with respect to the sphere's area, the
    measure of the densities in ``hypersphere``, so that ``TransformedDistribution(MultivariateNormal(...),
    [Stereographic(centre)])`` is a density on the sphere. The point -centre is that at infinity; ``inv`` maps it to a
    point at a distance of 2/ε, ε the dtype's rounding.

    Args:
        centre: a unit vector of shape (d,), d at least 2.
        cache_size: of torch's transforms, 0 or 1.

    Raises:
        ValueError: the centre is not such a vector.

    Examples:
        >>> chart = Stereographic(torch.tensor([0.0, 0.0, 1.0]))
        >>> chart(torch.tensor([1.0, 0.0]))
        tensor([1., 0., 0.])
    """

    domain = constraints.real_vector
    codomain = unit_vector
    bijective = True

    def __init__(self, centre: Tensor, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        if centre.ndim != 1 or len(centre) < 2 or not unit_vector.check(centre):
            raise ValueError("the centre of a stereographic projection must be one unit vector of R^d, d at least 2")
        self.centre = centre
        last, rest = centre[-1], centre[:-1]
        gap = rest.square().sum() / (1 + last) if last > 0 else 1 - last  # 1 - last, without cancellation
        normal = torch.cat([-rest, gap.unsqueeze(0)])
        length = normal.norm()
        self._normal = normal / length if length > 0 else normal  # 0: the reflection is the identity

    def with_cache(self, cache_size: int = 1) -> "Stereographic":
        return self if self._cache_size == cache_size else Stereographic(self.centre, cache_size)

    def forward_shape(self, shape: _size) -> torch.Size:
        return self._resized(shape, self._dim - 1, self._dim)

    def inverse_shape(self, shape: _size) -> torch.Size:
        return self._resized(shape, self._dim, self._dim - 1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """(d - 1) ln(2/(1 + ‖x‖²)), the sphere's area per volume of R^(d-1), shape ``x.shape[:-1]``."""
        scaled, inverse = _scaled(x)
        log_square = (inverse.square() + scaled.square().sum(-1, keepdim=True)).log() - 2 * inverse.log()
        return (self._dim - 1) * (math.log(2) - log_square.squeeze(-1))

    def _call(self, x: Tensor) -> Tensor:
        scaled, inverse = _scaled(x)
        squared = scaled.square().sum(-1, keepdim=True)
        unit = torch.cat([2 * inverse * scaled, inverse.square() - squared], -1) / (inverse.square() + squared)
        return self._reflected(unit)

    def _inverse(self, y: Tensor) -> Tensor:
        unit = self._reflected(y)
        rest, last = unit[..., :-1], unit[..., -1:]
        # y = rest/(1 + last); below the equator 1 + last = ‖rest‖²/(1 - last), which does not cancel
        size = rest.detach().abs().amax(-1, keepdim=True)
        at_infinity = size == 0
        first = torch.zeros_like(rest)
        first[..., 0] = 1
        size = torch.where(at_infinity, torch.finfo(y.dtype).eps, size)
        direction = torch.where(at_infinity, first, rest / size)
        below = direction * ((1 - last) / (size * direction.square().sum(-1, keepdim=True)))
        return torch.where(last > 0, rest / (1 + last.clamp(min=0)), below)

    def _reflected(self, x: Tensor) -> Tensor:
        normal = self._normal.to(x)
        return x - 2 * (x * normal).sum(-1, keepdim=True) * normal

    @property
    def _dim(self) -> int:
        return len(self.centre)

    def _resized(self, shape: _size, old: int, new: int) -> torch.Size:
        if not shape or shape[-1] != old:
            raise ValueError(f"the last dimension must be {old} for this stereographic projection, not {list(shape)}")
        return torch.Size([*shape[:-1], new])


def _scaled(x: Tensor) -> tuple[Tensor, Tensor]:
    """x/s and 1/s, with s the largest entry or 1: their squares do not overflow."""
    scale = x.detach().abs().amax(-1, keepdim=True).clamp(min=1)
    return x / scale, 1 / scale
