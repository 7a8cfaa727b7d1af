"""Do two sets of rows have one distribution? The kernel distance of two samples, for one or many columns."""

import math

import torch
from torch import Generator, Tensor

_MOST = 2_000  # rows of each set whose pairs are compared
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
    random = Generator().manual_seed(seed)
    x, y = (rows.double()[torch.randperm(len(rows), generator=random)[:_MOST]] for rows in (x, y))
    if min(len(x), len(y)) < 2:
        return math.nan, math.nan
    width = median_distance(x, y)
    kernels = [_gaussian(a, b, width) for a, b in ((x, x), (y, y), (x, y))]
    groups = min(_GROUPS, len(x) // 2, len(y) // 2)
    of_x, of_y = (torch.arange(len(rows)) % max(1, groups) for rows in (x, y))
    left_out = []
    for group in range(groups if groups > 1 else 0):
        keep_x, keep_y = of_x != group, of_y != group
        kept = (keep_x, keep_x), (keep_y, keep_y), (keep_x, keep_y)
        left_out.append(_mmd(*(k[rows][:, columns] for k, (rows, columns) in zip(kernels, kept, strict=True))))
    spread = torch.tensor(left_out, dtype=torch.float64)
    error = (groups - 1) / math.sqrt(groups) * spread.std().item() if groups > 1 else math.nan
    return _mmd(*kernels), error


def _gaussian(a: Tensor, b: Tensor, width: float) -> Tensor:
    return (-torch.cdist(a, b).square() / (2 * width**2)).exp()


def _mmd(xx: Tensor, yy: Tensor, xy: Tensor) -> float:
    n, m = xy.shape
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return (within - 2 * xy.mean()).item()
