"""A distribution without spread."""

from typing import ClassVar, NoReturn

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size


class PointMass(Distribution):
    """All of its mass at ``loc``: what a deterministic encoder returns. It has no density.

    Args:
        loc: vectors of shape (..., d).
        validate_args: as in torch.distributions.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"loc": constraints.real_vector}
    support = constraints.real_vector
    has_rsample = True

    loc: Tensor

    def __init__(self, loc: Tensor, validate_args: bool | None = None) -> None:
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: object = None) -> "PointMass":
        return PointMass(self.loc.expand(*batch_shape, -1), validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.loc)

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """``loc``, of shape ``sample_shape + batch_shape + (d,)``."""
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> NoReturn:
        """Not defined.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a point mass has no density")
