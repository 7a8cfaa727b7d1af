"""A mixture of two distributions of different families."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from evae.distributions.base import Expandable


class WithBackground(Expandable):
    r"""The mixture (1 - w)·p + w·g of a distribution p of vectors and a background g, which has a density everywhere.

    Where p has bounded support its log-density is -inf outside; the mixture's is at least ln w + ln g.

    Args:
        main: p, batch shape (), event shape (d,).
        background: g, of the same shapes.
        weight: w, between 0 and 1.
    """

    has_rsample = False
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    _parameters = ("main", "background")
    support = constraints.real_vector

    def __init__(self, main: Distribution, background: Distribution, weight: float) -> None:
        self.main, self.background, self.weight = main, background, weight
        super().__init__(main.batch_shape, main.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return (1 - self.weight) * self.main.mean + self.weight * self.background.mean

    @property
    def variance(self) -> Tensor:
        """Of each coordinate: the mean of the variances and the variance of the means."""
        within = (1 - self.weight) * self.main.variance + self.weight * self.background.variance
        return within + self.weight * (1 - self.weight) * (self.main.mean - self.background.mean).square()

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        main, background = (p.sample(sample_shape) for p in (self.main, self.background))
        chosen = torch.rand(main.shape[:-1], device=main.device) < self.weight
        return torch.where(chosen.unsqueeze(-1), background, main)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln((1 - w) p(value) + w g(value)), shape ``value.shape[:-1]``."""
        main = self.main.log_prob(value) + math.log1p(-self.weight)
        return torch.logaddexp(main, self.background.log_prob(value) + math.log(self.weight))
