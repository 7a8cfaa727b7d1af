r"""Which of many posteriors matter to the density of their mixture at a value: upper bounds of ln q_i(z), exact values.

Bounds hold whatever the rounding. For normal posteriors and those on the sphere they are quadratic forms, one matrix
product for all pairs of values and posteriors; for kernel posteriors they are sums over dimensions, most of which a
pair that does not matter never reaches.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, Uniform

from evae.distributions.hypersphere import PowerSpherical, VonMisesFisher
from evae.distributions.kernel import Kernel
from evae.distributions.kernels import GaussianKernel
from evae.distributions.posterior import KernelPosterior, coordinates
from evae.distributions.quadrature import double
from evae.distributions.stacking import parameters_of, select, with_parameters
from evae.distributions.student import MultivariateStudentT

_ROWS = 2**11  # posteriors at a time
_BLOCK = 8  # dimensions at a time
_WIDTH_STEP = 0.01  # of ln w in the table of marginals; a bound loses half of it per dimension
_EPS = torch.finfo(torch.float32).eps
_ERROR = 1e-6  # more than those of quadrature, 1e-9, and of its derivative
_FEW = 1 / 8  # of the pairs of a tile: that many are then taken out of it
_SLACK = 1e-4  # relative, for sums of penalties in float32
_FLOOR = 1e12  # ln q of a bounded kernel is above -1e12, or q is 0


class Form(NamedTuple):
    """peak - ½ Σ_j precision_j (z_j - centre_j)²: float64, shapes (N,), (N, d) and (N, d)."""

    peak: Tensor
    centre: Tensor
    precision: Tensor


class Screen(ABC):
    """Bounds and values of ln q_i(z), for posteriors i of batch shape (N,) and values z (V, d), float64."""

    elements: int = 2**18  # coordinates of pairs that ``log_prob`` may take at a time
    bounds: bool = True  # whether the quadratic forms are upper bounds

    def __init__(self, components: Distribution) -> None:
        self.components = components
        self.count, self.dim = components.batch_shape[0], components.event_shape[0]

    @abstractmethod
    def form(self, rows: slice) -> Form:
        """A quadratic form near ln q_i for some posteriors."""

    @abstractmethod
    def log_prob(self, values: Tensor, rows: Tensor) -> Tensor:
        """The exact ln q_i(z) of pairs, values (P, d) and posteriors (P,), float64; differentiable in the values."""

    @abstractmethod
    def survivors(self, values: Tensor, scores: Tensor, threshold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (P,) of values and of posteriors: all pairs with ln q_i(z) above a value's threshold, and few others.

        ``scores`` are those of the values, ``threshold`` has shape (V,).
        """

    def scores(self, values: Tensor) -> Tensor:
        """The quadratic forms at all pairs, (V, N), float32; bounds are raised by what rounding may take."""
        values = values if self.bounds else values.float()
        squares = values.square()
        features = torch.cat([squares, values, squares.sum(1, keepdim=True)], 1)
        scores = values.new_empty(len(values), self.count, dtype=torch.float32)
        for rows in self.chunks():
            peak, centre, precision = (x.to(values.dtype) for x in self.form(rows))
            weighted = precision * centre
            constant = (weighted * centre).sum(1)
            # A sum of n terms is off by at most n eps Σ|terms|, and here Σ|terms| ≤ Σ |precision| (z² + centre²).
            rate = 4 * (self.dim + 4) * torch.finfo(values.dtype).eps if self.bounds else 0.0
            error = rate * precision.abs().amax(1, keepdim=True)
            weights = torch.cat([precision / -2, weighted, error], 1)
            bias = peak - constant / 2 + rate * (constant.abs() + peak.abs())
            scores[:, rows] = torch.addmm(bias, features, weights.T)
        return scores

    def chunks(self) -> Iterator[slice]:
        """All posteriors, some at a time."""
        for start in range(0, self.count, _ROWS):
            yield slice(start, min(start + _ROWS, self.count))


class _QuadraticScreen(Screen):
    """For posteriors whose quadratic form is an upper bound of ln q_i, or ln q_i itself."""

    def survivors(self, values: Tensor, scores: Tensor, threshold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        least = threshold.to(scores.dtype).unsqueeze(1)  # rounding to float32 keeps the order
        for rows in self.chunks():
            value, row = (~(scores[:, rows] < least)).nonzero().T  # what overflows is kept
            yield value, row + rows.start


class NormalScreen(_QuadraticScreen):
    """Normal posteriors, and kernel posteriors of the Gaussian kernel with a Gaussian prior."""

    def form(self, rows: slice) -> Form:
        q = self._doubled(rows)
        return Form(q.log_prob(q.mean), q.mean, 1 / q.variance)

    def log_prob(self, values: Tensor, rows: Tensor) -> Tensor:
        return self._doubled(rows).log_prob(values)

    def _doubled(self, rows: Tensor | slice) -> Distribution:
        """Some posteriors in float64."""
        q = select(self.components, rows)
        base = coordinates(q)
        if isinstance(base, Normal):
            return with_parameters(q, {name: double(x) for name, x in parameters_of(q).items()})
        assert isinstance(base, KernelPosterior)
        centre, width, sigma = _geometry(base)
        return Independent(Normal(centre, torch.hypot(width, sigma), validate_args=False), 1, validate_args=False)


class SphereScreen(_QuadraticScreen):
    r"""Von Mises-Fisher posteriors, whose ln q is quadratic, and power spherical ones.

    Of the latter, ln q = peak + κ ln x, x = ‖z + μ‖²/4, and ln x ≤ ln a - 1 + x/a for any a: here the mean of x.
    """

    components: VonMisesFisher | PowerSpherical

    def __init__(self, components: Distribution) -> None:
        super().__init__(components)
        self._peak = torch.cat([self._doubled(rows).log_peak for rows in self.chunks()])

    def form(self, rows: slice) -> Form:
        q, peak = self._doubled(rows), self._peak[rows]
        kappa = q.concentration
        precision = kappa.unsqueeze(1).expand_as(q.loc)
        if isinstance(q, VonMisesFisher):
            return Form(peak, q.loc, precision)
        mean = (self.dim - 1 + 2 * kappa) / (2 * (self.dim - 1 + kappa))
        return Form(peak + kappa * (mean.log() - 1), -q.loc, -precision / (2 * mean.unsqueeze(1)))

    def log_prob(self, values: Tensor, rows: Tensor) -> Tensor:
        return self._peak[rows] + self._doubled(rows).log_ratio(values)

    def _doubled(self, rows: Tensor | slice) -> VonMisesFisher | PowerSpherical:
        tensors = {name: double(x[rows]) for name, x in parameters_of(self.components).items()}
        return with_parameters(self.components, tensors)  # type: ignore[return-value]


class NoScreen(Screen):
    """Posteriors with tails of a power: none is negligible, even far from its centre, and all pairs are evaluated."""

    elements = 2**15
    bounds = False

    def form(self, rows: slice) -> Form:
        q = select(self.components, rows)
        return Form(double(q.log_prob(q.mean)), double(q.mean), 1 / double(q.variance))

    def log_prob(self, values: Tensor, rows: Tensor) -> Tensor:
        return select(self.components, rows).log_prob(values)

    def survivors(self, values: Tensor, scores: Tensor, threshold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for rows in self.chunks():
            value, row = torch.ones_like(scores[:, rows]).nonzero().T
            yield value, row + rows.start


class MarginalScreen(Screen):
    r"""Kernel posteriors, and bounded kernels by themselves: sums over dimensions of bounds of the marginals.

    A marginal at a distance t from its centre has ln q(t) ≤ peak - slope · max(0, t - knee): q is the convolution of
    symmetric log-concave densities, so that a tangent of ln q is above it, and so is its value at 0. Where kernel and
    prior are bounded, q is 0 beyond its reach: the knee is there, and the slope excludes any pair beyond.
    """

    elements = 2**13  # each may take 4 kB: within the processor's cache, four times as fast as 2**15
    bounds = False

    def __init__(self, components: Distribution) -> None:
        super().__init__(components)
        base = coordinates(components)
        assert isinstance(base, Kernel | KernelPosterior)
        marginals: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
        if isinstance(base, Kernel):
            self._bounded, marginals = True, partial(_highest, type(base))
        else:
            self._bounded, marginals = base.kernel.bounded and isinstance(base.prior, Uniform), _Marginals(base)
        self._order = self._informative_order()
        loc = parameters_of(components)["loc"]
        self._centre, self._slope, self._knee = (
            torch.empty(loc.shape, dtype=torch.float32, device=loc.device) for _ in range(3)
        )
        self._peak = torch.cat([self._fill(rows, marginals) for rows in self.chunks()])

    def form(self, rows: slice) -> Form:
        q = select(self.components, rows)
        return Form(self._peak[rows], double(q.mean), 1 / double(q.variance))

    def log_prob(self, values: Tensor, rows: Tensor) -> Tensor:
        return select(self.components, rows).log_prob(values)

    def survivors(self, values: Tensor, scores: Tensor, threshold: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        z = values[:, self._order].float()
        threshold = threshold.clamp(min=-_FLOOR) if self._bounded else threshold
        threshold = (threshold - _SLACK * (1 + threshold.abs())).float()
        for rows in self.chunks():
            peak = self._peak[rows]
            excess = threshold.unsqueeze(1) - (peak + _SLACK * (1 + peak.abs())).float()
            done = self._penalise(z, rows, excess)
            value, row = (~(excess > 0)).nonzero().T
            excess, row = excess[value, row], row + rows.start
            for start in range(done, self.dim, _BLOCK):
                excess = excess + self._penalty(z, value, row, slice(start, start + _BLOCK))
                kept = (~(excess > 0)).nonzero().squeeze(1)
                value, row, excess = value[kept], row[kept], excess[kept]
            yield value, row

    def _penalise(self, z: Tensor, rows: slice, excess: Tensor) -> int:
        """Add to (V, n) the penalties of dimension after dimension, until few pairs are left; returns how many."""
        part = torch.empty_like(excess)
        for j in range(self.dim):
            centre, slope, knee = (x[rows, j].contiguous() for x in (self._centre, self._slope, self._knee))
            torch.sub(z[:, j, None], centre, out=part)
            excess.addcmul_(part.abs_().sub_(knee).clamp_(min=0), slope)
            if j % 2 and (excess <= 0).sum() < _FEW * excess.numel():
                return j + 1
        return self.dim

    def _penalty(self, z: Tensor, value: Tensor, row: Tensor, block: slice) -> Tensor:
        """Of pairs (P,), over some dimensions."""
        distance = (z[:, block][value] - self._centre[:, block][row]).abs_()
        beyond = distance.sub_(self._knee[:, block][row]).clamp_(min=0)
        return beyond.mul_(self._slope[:, block][row]).sum(1)

    def _fill(self, rows: slice, marginals: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The bounds of some posteriors, dimensions in order; returns their peaks (n,)."""
        base = coordinates(select(self.components, rows))
        assert isinstance(base, Kernel | KernelPosterior)
        centre, width, spread = _geometry(base)
        peak, slope, knee = marginals(width, spread)
        if self._bounded:
            knee = width + spread / 2
            eps = torch.finfo(base.mean.dtype).eps
            around = 0.0 if isinstance(base, Kernel) else base.prior.mean.abs()
            knee = knee + 8 * eps * (centre.abs() + around + knee)  # as log_prob widens it, and more
            slope = 1e8 * _FLOOR / knee  # times the least excess in float32, 1e-7 of the knee
        # A float32 distance is off by at most eps (t + |centre|), and the rest by relative rounding.
        knee = knee * (1 + 8 * _EPS) + 4 * _EPS * centre.abs()
        slope = slope * (1 - 8 * _EPS)
        for cached, exact in ((self._centre, centre), (self._slope, slope), (self._knee, knee)):
            cached[rows] = exact[:, self._order]
        return peak.sum(1)

    def _informative_order(self) -> Tensor:
        """Dimensions by how far apart the centres are, in units of the posteriors' width, the farthest first."""
        sums = []
        for rows in self.chunks():
            q = select(self.components, rows)
            mean, spread = double(q.mean), double(q.variance)
            sums.append(torch.stack([mean.sum(0), mean.square().sum(0), spread.sum(0)]))
        total, square, variance = torch.stack(sums).sum(0)
        between = square / self.count - (total / self.count) ** 2
        return (between / variance).argsort(descending=True)


class _Marginals:
    r"""Bounds of all marginals of kernel posteriors, from a table over widths in units of the prior's spread.

    A symmetric unimodal kernel of width w is at most w'/w times that of a larger width w', and the same holds after
    the convolution with the prior: each width is rounded up to one of the table's, at the price of ln w'/w.
    """

    def __init__(self, base: KernelPosterior) -> None:
        unit = double(base.bandwidth[0]) / double(base.support_length[0])
        narrowest, widest = (double(extreme(0)) * unit for extreme in (base.kernel.scale.amin, base.kernel.scale.amax))
        self._low = narrowest.min().log()
        count = int(((widest.max().log() - self._low) / _WIDTH_STEP).ceil()) + 1
        self._log_widths = self._low + _WIDTH_STEP * torch.arange(count, dtype=unit.dtype, device=unit.device)
        uniform = isinstance(base.prior, Uniform)
        self._prior_peak = (0.0 if uniform else -math.log(2 * math.pi) / 2) + _ERROR
        self._peak, self._intercept, self._slope = _tangents(type(base.kernel), uniform, self._log_widths.exp())

    def __call__(self, width: Tensor, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Peak, slope and knee of each marginal, of the shape of ``width`` and ``spread``."""
        log_width = (width / spread).log()
        index = ((log_width - self._low) / _WIDTH_STEP).ceil().long().clamp(0, len(self._log_widths) - 1)
        price = self._log_widths[index] - log_width
        peak = (self._peak[index] + price).clamp(max=self._prior_peak)
        slope = self._slope[index]
        return peak - spread.log(), slope / spread, (self._intercept[index] + price - peak) / slope * spread


def _tangents(kernel: type[Kernel], uniform: bool, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Peak of ln q, and a line intercept - slope · t above it, for kernels of some widths and a prior of spread 1.

    The line is the tangent where a bounded kernel and a uniform prior end, or where ln q has fallen by a few nats.
    """
    zero, one = torch.zeros_like(width), torch.ones_like(width)
    prior = Uniform(-one / 2, one / 2) if uniform else Normal(zero, one)
    q = KernelPosterior(kernel(zero, width, validate_args=False), prior, 1.0, validate_args=False)
    far = width * (1 if kernel.bounded else 2) + (0.5 if uniform else 2)
    if uniform and kernel.bounded:
        far = far / 2
    with torch.enable_grad():
        t = far.clone().requires_grad_()
        value = q.log_density_at(t)
        (gradient,) = torch.autograd.grad(value.sum(), t)
    slope = -gradient.clamp(max=-1e-30)
    intercept = value.detach() + slope * far * (1 + _ERROR) + _ERROR
    return q.log_density_at(zero) + _ERROR, intercept, slope


def _highest(kernel: type[Kernel], width: Tensor, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of bounded kernels by themselves: the peak; slope and knee are those of their support."""
    return kernel._log_density(torch.zeros_like(width)) - width.log() + _ERROR, width, width


def _geometry(base: Kernel | KernelPosterior) -> tuple[Tensor, Tensor, Tensor]:
    """Centre, kernel's width and prior's spread of each coordinate, float64."""
    if isinstance(base, Kernel):
        return double(base.loc), double(base.scale), torch.zeros_like(double(base.scale))
    bandwidth = double(base.bandwidth)
    centre = bandwidth * double(base.kernel.loc) + double(base.prior.mean)
    return centre, bandwidth * double(base.kernel.scale), double(base.support_length)


def screen_of(components: Distribution) -> Screen:
    """The screen for posteriors with a density."""
    base = coordinates(components)
    if isinstance(base, VonMisesFisher | PowerSpherical):
        return SphereScreen(components)
    if isinstance(base, MultivariateStudentT) or (isinstance(base, KernelPosterior) and base.kernel.heavy_tailed):
        return NoScreen(components)
    gaussian = (
        isinstance(base, KernelPosterior) and isinstance(base.kernel, GaussianKernel) and isinstance(base.prior, Normal)
    )
    return NormalScreen(components) if gaussian or isinstance(base, Normal) else MarginalScreen(components)
