"""Do two sets of rows have one distribution? The kernel distance of two samples, for one or many columns."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

_MOST = 2_000  # rows of each set whose pairs are compared
_MOST_TESTED = 1_000  # the same where there are a thousand permutations
_PERMUTATIONS = 999
_RESAMPLES = 200
_FOR_MEDIAN = 1_000
_GROUPS = 20  # of the jackknife


def median_distance(x: Tensor, y: Tensor) -> float:
    """The median distance between two of the rows of both sets (N, F) and (M, F): the usual width of the kernel.

    Of the first 500 rows of each; 1 where the median is 0.
    """
    rows = torch.cat([x[: _FOR_MEDIAN // 2], y[: _FOR_MEDIAN // 2]])
    return torch.pdist(rows).median().item() or 1.0


def kernel_mmd(x: Tensor, y: Tensor, seed: int = 0) -> tuple[float, float]:
    r"""The unbiased MMD² of two sets of rows (N, F) and (M, F), and its standard error.

    Σ_{i≠j} k(x_i, x_j)/(N(N-1)) + Σ_{i≠j} k(y_i, y_j)/(M(M-1)) - 2 Σ_{ij} k(x_i, y_j)/(NM) with the Gaussian kernel
    k(a, b) = exp(-‖a - b‖²/(2h²)), h the median distance (Gretton et al., JMLR 2012); 0 in the mean where the
    distributions are equal, so that it can be negative. Of at most 2,000 rows of each set, drawn at random. The
    error is that of a jackknife over 20 random groups of each set's rows; NaN where a set has fewer than 4.
    """
    x, y = _drawn(x, y, _MOST, Generator().manual_seed(seed))
    if min(len(x), len(y)) < 2:
        return math.nan, math.nan
    n, m = len(x), len(y)
    groups = max(1, min(_GROUPS, n // 2, m // 2))
    place, is_x = torch.cat([torch.arange(n), torch.arange(m)]) % groups, torch.arange(n + m) < n
    # Column 0 has all rows, the others those of all groups but one.
    kept = torch.cat([torch.ones(n + m, 1, dtype=torch.bool), place[:, None] != torch.arange(groups)], 1)
    of_x, of_y = (kept & rows[:, None] for rows in (is_x, ~is_x))
    value, *left_out = _weighted_mmd(_kernel(x, y), of_x.double(), of_y.double()).tolist()
    spread = torch.tensor(left_out, dtype=torch.float64)
    error = (groups - 1) / math.sqrt(groups) * spread.std().item() if groups > 1 else math.nan
    return value, error


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Values of the Gaussian kernel of all rows of both sets, x first, (N + M, N + M), with 0 on the diagonal."""
    both = torch.cat([x, y])
    squared = torch.cdist(both, both).square()
    return (-squared / (2 * median_distance(x, y) ** 2)).exp().fill_diagonal_(0)


class MmdTest(NamedTuple):
    """An MMD² with its uncertainty, see ``mmd_test``; all NaN where a set has fewer than two rows.

    Attributes:
        value: the unbiased MMD², as of ``kernel_mmd``.
        error: the standard deviation over resamples.
        low, high: the 2.5 % and 97.5 % quantiles over resamples.
        p_value: of the test that both sets have one distribution.
    """

    value: float
    error: float
    low: float
    high: float
    p_value: float


def mmd_test(x: Tensor, y: Tensor, seed: int = 0) -> MmdTest:
    r"""The unbiased MMD² of two sets of rows (N, F) and (M, F), a bootstrap interval and a permutation p-value.

    Kernel and bandwidth are those of ``kernel_mmd``, of at most 1,000 rows of each set. The interval is of 200
    bootstrap resamples of both sets, without the pairs of a row and itself; it is valid where the distributions differ,
    and too wide where they are one, as the statistic is degenerate there. p is (1 + number of permutations with an MMD²
    that is as large)/(1 + 999), over random permutations of the rows of both sets: exact, whatever the distributions
    (Gretton et al., JMLR 2012). Kim et al. (ICLR 2024) use the linear-time statistic of 100,000 rows instead.
    """
    random = Generator().manual_seed(seed)
    x, y = _drawn(x, y, _MOST_TESTED, random)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        return MmdTest(*[math.nan] * 5)
    kernel = _kernel(x, y)
    is_x = (torch.arange(n + m) < n).double().unsqueeze(1)
    value = _weighted_mmd(kernel, is_x, 1 - is_x).item()
    places = torch.rand(_PERMUTATIONS, n + m, generator=random).argsort(1)
    permuted = (places < n).double().T
    reached = (_weighted_mmd(kernel, permuted, 1 - permuted) >= value - 1e-12).sum().item()
    of_x, of_y = torch.zeros(2, n + m, _RESAMPLES, dtype=torch.float64)
    of_x[:n], of_y[n:] = _resampled(n, random), _resampled(m, random)
    resampled = _weighted_mmd(kernel, of_x, of_y)
    low, high = resampled.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return MmdTest(value, resampled.std().item(), low, high, (1 + reached) / (1 + _PERMUTATIONS))


def _drawn(x: Tensor, y: Tensor, most: int, random: Generator) -> tuple[Tensor, Tensor]:
    """At most so many random rows of each set, in double precision."""
    x, y = (rows.double()[torch.randperm(len(rows), generator=random)[:most]] for rows in (x, y))
    return x, y


def _resampled(count: int, random: Generator) -> Tensor:
    """How often each of the rows is drawn in each resample, (count, resamples)."""
    drawn = torch.randint(count, (count, _RESAMPLES), generator=random)
    ones = torch.ones_like(drawn, dtype=torch.float64)
    return torch.zeros_like(ones).scatter_add_(0, drawn, ones)


def _weighted_mmd(kernel: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """MMD² of all rows with weights a and with weights b, both (N, R), without pairs of a row and itself: (R,).

    The diagonal of the kernel's values (N, N) is 0.
    """
    of_a, of_b = kernel @ a, kernel @ b
    pairs_a, pairs_b = (w.sum(0).square() - w.square().sum(0) for w in (a, b))
    return (a * of_a).sum(0) / pairs_a + (b * of_b).sum(0) / pairs_b - 2 * (a * of_b).sum(0) / (a.sum(0) * b.sum(0))
