"""A distribution without spread."""

from typing import ClassVar, NoReturn

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.types import _size

from evae.distributions.base import Symmetric


class PointMass(Symmetric):
    """All of its mass at ``loc``, shape (..., d): what a deterministic encoder returns. It has no density."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {"loc": constraints.real_vector}
    support = constraints.real_vector
    _parameters = ("loc",)

    def __init__(self, loc: Tensor, validate_args: bool | None = None) -> None:
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=validate_args)

    @property
    def variance(self) -> Tensor:
        return torch.zeros_like(self.loc)

    def rsample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Copies of ``loc``, of shape ``sample_shape + batch_shape + (d,)``."""
        return self.loc.expand(self._extended_shape(torch.Size(sample_shape))).clone()

    def log_prob(self, value: Tensor) -> NoReturn:
        """Not defined: raises NotImplementedError."""
        raise NotImplementedError("a point mass has no density")
