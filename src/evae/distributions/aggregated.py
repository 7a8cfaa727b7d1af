"""The aggregated posterior: the mean of the posteriors of many images, as an exact distribution."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from evae.distributions.base import Expandable
from evae.distributions.constraints import unit_vector
from evae.distributions.quadrature import double
from evae.distributions.screening import Screen, screen_of
from evae.distributions.stacking import detached, parameters_of, select, widened

_CANDIDATES = 4  # posteriors per value from which a lower bound of the density is taken
_NEGLIGIBLE = 25.0  # nats: what is left out is at most e^-25 = 1.4e-11 of the density
_VALUES = 2**9  # values at a time, and
_PAIRS = 2**25  # pairs of values and posteriors, of which each has a float32 number
_ROWS = 2**12  # posteriors at a time, for moments


class AggregatedPosterior(Expandable):
    r"""The mixture (1/N) Σ_i q_i(z) of N posteriors (Makhzani et al. 2015; Hoffman and Johnson 2016).

    ``log_prob`` is exact: the logsumexp of the posteriors' own densities, without those that together are below
    e^-25 = 1.4e-11 of the sum, which upper bounds find. Its memory does not grow with the number of values, unless a
    gradient is asked for. It takes longer where little can be left out, as with posteriors much wider than the
    distances between their centres.

    The posteriors are taken as they are: gradients with respect to their parameters, or the model's, are not
    available. Values of float32 draws always have a positive density; outside all supports it is 0, ``log_prob`` -inf.

    Args:
        components: the posteriors, batch shape (N,), event shape (d,), of any kind that ``parameters_of`` knows and
            that has a density. Of those with Student's tails no pair is left out, so that it takes longest.
        factor: of their widths, see ``widened``.

    Raises:
        NotImplementedError: the posteriors have no density.
        TypeError: they are of no kind of evae's.
        ValueError: N is 0, the batch shape is not (N,), or the factor is not positive.

    Examples:
        >>> from torch.distributions import Independent, Normal
        >>> q = AggregatedPosterior(Independent(Normal(torch.eye(3), 0.1), 1))
        >>> q.log_prob(q.sample((5,))).shape
        torch.Size([5])
    """

    has_rsample = False
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    _parameters = ()

    def __init__(self, components: Distribution, factor: float = 1.0, validate_args: bool | None = None) -> None:
        if len(components.batch_shape) == 1 and not components.batch_shape[0]:
            raise ValueError("an aggregated posterior needs at least one posterior")
        self.components = widened(detached(components), factor)
        self._loc = parameters_of(self.components)["loc"]
        super().__init__(torch.Size(), components.event_shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """The sphere, or all vectors: that of bounded kernels is a union of N boxes within them."""
        return unit_vector if self.components.support is unit_vector else constraints.real_vector

    @cached_property
    def mean(self) -> Tensor:
        return self._moments[0].to(self._loc.dtype).expand(self._extended_shape())

    @cached_property
    def variance(self) -> Tensor:
        """Of each coordinate: the mean of the variances and the variance of the means."""
        return self._moments[1].to(self._loc.dtype).expand(self._extended_shape())

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Draws of shape ``sample_shape + batch_shape + (d,)``: of a posterior at random, a draw."""
        shape = self._extended_shape(torch.Size(sample_shape))
        count = self.components.batch_shape[0]
        rows = torch.randint(count, (shape[:-1].numel(),), device=self._loc.device)
        return select(self.components, rows).sample().view(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """ln of the mean density, shape ``value.shape[:-1]`` with ``batch_shape``; differentiable in the value."""
        if self._validate_args:
            self._validate_sample(value)
        values = double(value).reshape(-1, *self.event_shape)
        size = min(_VALUES, max(1, _PAIRS // self._screen.count))
        log_sums = torch.cat([_log_sum(self._screen, part) for part in values.split(size)])
        log_density = (log_sums - math.log(self._screen.count)).view(value.shape[:-1])
        shape = torch.broadcast_shapes(log_density.shape, self.batch_shape)
        return log_density.to(torch.promote_types(value.dtype, self._loc.dtype)).expand(shape)

    @cached_property
    def _screen(self) -> Screen:
        with torch.no_grad():
            return screen_of(self.components)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance, float64, shape (d,)."""
        count = self.components.batch_shape[0]
        parts = [slice(start, start + _ROWS) for start in range(0, count, _ROWS)]
        sums = [double(select(self.components, rows).mean).sum(0) for rows in parts]
        mean = torch.stack(sums).sum(0) / count
        variance = torch.zeros_like(mean)
        for rows in parts:
            q = select(self.components, rows)
            variance = variance + (double(q.variance) + (double(q.mean) - mean).square()).sum(0)
        return mean, variance / count


def _log_sum(screen: Screen, values: Tensor) -> Tensor:
    """ln Σ_i q_i of values (V, d), float64."""
    missing = values.isnan().any(1)
    values = torch.where(missing.unsqueeze(1), 0.0, values)
    total = _LogSum(values)
    size = max(1, screen.elements // screen.dim)
    for pairs in _survivors(screen, values.detach()):
        parts = [indices.split(size) for indices in pairs if len(indices)]
        for value, row in zip(*parts, strict=True):
            total.add(value, screen.log_prob(values[value], row))
    return torch.where(missing, math.nan, total.value())


@torch.no_grad()
def _survivors(screen: Screen, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of values and of posteriors: all pairs but those that together are negligible."""
    scores = screen.scores(values)
    best = scores.topk(min(_CANDIDATES, screen.count)).indices
    exact = [screen.log_prob(values, row) for row in best.T]
    lower = torch.logsumexp(torch.stack(exact), 0)
    return screen.survivors(values, scores, lower - math.log(screen.count) - _NEGLIGIBLE)


class _LogSum:
    """Sums of exponentials, one per value, of terms that come in any order: relative to the largest so far."""

    def __init__(self, values: Tensor) -> None:
        self._largest = values.new_full((len(values),), torch.finfo(values.dtype).min)
        self._sum = values.new_zeros(len(values))

    def add(self, value: Tensor, terms: Tensor) -> None:
        """Add exp(terms) to the sums of some values, both (P,)."""
        largest = self._largest.scatter_reduce(0, value, terms.detach(), "amax")
        kept = self._sum * (self._largest - largest).exp()
        self._sum = kept.index_add(0, value, (terms - largest[value]).exp())
        self._largest = largest

    def value(self) -> Tensor:
        """The logarithms, -inf where there is no term."""
        some = self._sum > 0
        return torch.where(some, self._largest + torch.where(some, self._sum, 1.0).log(), -math.inf)
