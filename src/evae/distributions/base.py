"""What the distributions of this package share."""

from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size


def expanded(x: Tensor, shape: _size) -> Tensor:
    """``x`` of this shape; itself where it has it, so that a copy of a distribution can copy its parameters."""
    return x if x.shape == torch.Size(shape) else x.expand(torch.Size(shape))


class Expandable(Distribution):
    """A reparameterised distribution whose ``_parameters``, tensors or distributions, have its whole batch shape."""

    has_rsample = True
    _parameters: ClassVar[tuple[str, ...]]

    def expand(self, batch_shape: _size, _instance: Self | None = None) -> Self:
        new: Self = type(self).__new__(type(self)) if _instance is None else _instance
        vars(new).update(vars(self))
        for name in self._parameters:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                value = expanded(value, [*batch_shape, *value.shape[len(self.batch_shape) :]])
            elif value.batch_shape != torch.Size(batch_shape):
                value = value.expand(torch.Size(batch_shape))
            setattr(new, name, value)
        new._batch_shape = torch.Size(batch_shape)
        return new


class Symmetric(Expandable):
    """A distribution that is symmetric about ``loc`` and has its only mode there."""

    _parameters: ClassVar[tuple[str, ...]] = ("loc", "scale")
    loc: Tensor
    scale: Tensor

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc
