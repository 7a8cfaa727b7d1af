"""Distances between two sets of images by their features: Fréchet, kernel, precision/recall, density/coverage.

All take features (N, F) of any extractor; only with Inception's is the Fréchet distance the FID and the kernel distance
the KID.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.linalg import lapack
from torch import Generator, Tensor

from evae.errors import first_line
from evae.records import RecordError

_MAX_KEPT = 10_000  # features kept of a stream, for the distances that need individual ones
_CHUNK = 2_000
_SUBSETS, _MAX_SUBSET = 10, 1_000
_GROUPS = 20  # of the jackknife
_CANDIDATES = 4  # for the nearest image


class FeatureSet:
    """Mean and covariance of a stream of features, and a random selection of 10,000 of them.

    Sums are float64, about the first batch's mean; the selection is uniform over the stream (reservoir sampling), and
    of two streams of one length the same rows are selected.
    """

    def __init__(self) -> None:
        self.count = 0
        self._random = Generator().manual_seed(0)

    def add(self, features: Tensor) -> None:
        """Add a batch of features (N, F)."""
        x = features.double().cpu()
        if self.count == 0:
            self._origin = x.mean(0)
            self._sum, self._outer = torch.zeros_like(self._origin), x.new_zeros(x.shape[1], x.shape[1])
            self.kept = x.new_empty(0, x.shape[1], dtype=torch.float32)
        centred = x - self._origin
        self._sum += centred.sum(0)
        self._outer += centred.T @ centred
        free = _MAX_KEPT - len(self.kept)
        self.kept = torch.cat([self.kept, x[:free].float()])
        for i in range(free, len(x)):
            place = int(torch.randint(self.count + i + 1, (), generator=self._random))
            if place < _MAX_KEPT:
                self.kept[place] = x[i]
        self.count += len(x)

    @property
    def mean(self) -> Tensor:
        """Mean of all features, (F,)."""
        return self._origin + self._sum / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance of all features, (F, F)."""
        return _moments(self.count, self._sum, self._outer)[1]

    def tensors(self) -> dict[str, Tensor]:
        """The state, as tensors to save."""
        count = torch.tensor(self.count)
        return {"count": count, "origin": self._origin, "sum": self._sum, "outer": self._outer, "kept": self.kept}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> "FeatureSet":
        """From what ``tensors`` returned; no features can be added to it.

        Raises:
            RecordError: these are others.
        """
        self = cls()
        try:
            self._origin, self._sum, self._outer = (tensors[name] for name in ("origin", "sum", "outer"))
            self.count, self.kept, features = int(tensors["count"]), tensors["kept"], len(self._origin)
        except (KeyError, TypeError, RuntimeError) as error:
            raise RecordError(f"no features ({first_line(error)})") from error
        kinds = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items() if name != "count"}
        vector, matrix = ((features,), torch.float64), ((features, features), torch.float64)
        kept = ((min(self.count, _MAX_KEPT), features), torch.float32)
        if kinds != {"origin": vector, "sum": vector, "outer": matrix, "kept": kept}:
            raise RecordError("features of other shapes or types")
        return self


def _moments(count: int, total: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance of rows, of their sum and that of their outer products."""
    mean = total / count
    return mean, (outer - count * torch.outer(mean, mean)) / (count - 1)


def frechet_distance(mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor) -> float:
    r"""‖μ₁ - μ₂‖² + tr Σ₁ + tr Σ₂ - 2 tr (Σ₁ Σ₂)^½, of float64 means (F,) and covariances (F, F).

    The squared 2-Wasserstein distance of two Gaussians (Dowson and Landau 1982; Heusel et al., NeurIPS 2017, for
    Inception features: the FID). The last trace is the sum of the square roots of the eigenvalues of Lᵀ Σ₂ L, where
    Σ₁ = L Lᵀ by Cholesky's method with pivots: L has as many columns as Σ₁ has rank, and no eigenvectors are needed,
    whose computation can fail to converge for singular covariances.
    """
    upper, pivots, rank, _ = lapack.dpstrf(covariance.numpy())
    factor = covariance.new_zeros(len(covariance), rank)
    factor[pivots - 1] = torch.from_numpy(upper[:rank]).triu().T
    eigenvalues = torch.linalg.eigvalsh(factor.T @ other_covariance @ factor).clamp(min=0)
    traces = covariance.trace() + other_covariance.trace() - 2 * eigenvalues.sqrt().sum()
    return max(((mean - other_mean).square().sum() + traces).item(), 0.0)


class Frechet(NamedTuple):
    """A Fréchet distance of finite sets and its limit for infinite ones, each with its standard error, NaN where there
    are fewer than three rows; the limit and its error, where there are fewer than six.
    """

    distance: float
    error: float
    limit: float
    limit_error: float


def frechet(features: FeatureSet, others: FeatureSet, seed: int = 0) -> Frechet:
    r"""The Fréchet distance D of two sets, and its limit for infinitely many images.

    D of n images is too large by about c/n (Chong and Forsyth, CVPR 2020), the mean D₂ of two random halves by 2c/n, so
    that the limit is 2D - D₂. It can be negative, and is itself too large where n is below twice the number of
    features. The errors are those of a jackknife over 20 random groups of rows. Halves and groups are of both sets at
    once, and the same of sets of one length, so that row i of one may belong to row i of the other (reconstructions and
    their originals). Where not all rows are kept, c and the errors come from those that are, scaled to n.
    """
    distance = frechet_distance(features.mean, features.covariance, others.mean, others.covariance)
    share = min(len(x.kept) / x.count for x in (features, others))
    sizes = [round(share * x.count) for x in (features, others)]
    count = min(_GROUPS, *sizes)
    if count < 3:
        return Frechet(distance, math.nan, math.nan, math.nan)
    has_limit = count >= 6
    count -= count % 2 if has_limit else 0
    groups = _random_groups(features.kept, others.kept, sizes, count, seed)
    halves = [_sums(groups[start::2]) for start in (0, 1)]
    both = [a + b for a, b in zip(*halves, strict=True)]
    of_both, of_halves = _distance(both), [_distance(half) if has_limit else math.nan for half in halves]
    distances, limits = [], []
    for i, group in enumerate(groups):
        part, half = _sums([group]), i % 2
        distances.append(_distance([a - b for a, b in zip(both, part, strict=True)]))
        left = _distance([a - b for a, b in zip(halves[half], part, strict=True)]) if has_limit else math.nan
        limits.append(2 * distances[-1] - (left + of_halves[1 - half]) / 2)
    limit = distance - share * (sum(of_halves) / 2 - of_both)
    errors = [
        (count - 1) * math.sqrt(share / count) * torch.tensor(x, dtype=torch.float64).std().item()
        for x in (distances, limits)
    ]
    return Frechet(distance, errors[0], limit, errors[1])


@dataclass(frozen=True)
class _Sums:
    """The number of rows, their sum and that of their outer products: those of disjoint sets of rows add up."""

    count: int
    total: Tensor
    outer: Tensor

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.count + other.count, self.total + other.total, self.outer + other.outer)

    def __sub__(self, other: "_Sums") -> "_Sums":
        return _Sums(self.count - other.count, self.total - other.total, self.outer - other.outer)


def _sums(groups: Sequence[Sequence[Tensor]]) -> list[_Sums]:
    """Those of each of the two sets, of all rows of some groups."""
    sets = [torch.cat(parts) for parts in zip(*groups, strict=True)]
    return [_Sums(len(x), x.sum(0), x.T @ x) for x in sets]


def _distance(sums: Sequence[_Sums]) -> float:
    return frechet_distance(*(moment for x in sums for moment in _moments(x.count, x.total, x.outer)))


def _random_groups(
    features: Tensor, others: Tensor, sizes: Sequence[int], count: int, seed: int
) -> list[tuple[Tensor, ...]]:
    """Disjoint random groups of rows of two sets, as many as ``sizes`` says of each, float64, about a common origin."""
    origin = features.mean(0)
    chosen = []
    for x, size in zip((features, others), sizes, strict=True):
        order = torch.randperm(len(x), generator=Generator().manual_seed(seed))[:size]
        chosen.append([(x[order[start::count]] - origin).double() for start in range(count)])
    return list(zip(*chosen, strict=True))


def kernel_distance(features: Tensor, others: Tensor, seed: int = 0) -> tuple[float, float]:
    r"""The unbiased MMD² of two independent sets (N, F) with k(x, y) = (xᵀy/F + 1)³, and its standard error.

    The mean over 10 or more disjoint random subsets of at most 1,000 (Bińkowski et al., ICLR 2018, for Inception
    features: the KID); being disjoint, their spread gives the error.
    """
    random = Generator().manual_seed(seed)
    shuffled = [x[torch.randperm(len(x), generator=random)] for x in (features, others)]
    count = min(len(features), len(others))
    size = max(2, min(_MAX_SUBSET, count // _SUBSETS))
    subsets = zip(*(x[: count - count % size].split(size) for x in shuffled), strict=True)
    estimates = torch.tensor([_cubic_mmd(x.double(), y.double()) for x, y in subsets], dtype=torch.float64)
    error = estimates.std().item() / math.sqrt(len(estimates)) if len(estimates) > 1 else math.nan
    return estimates.mean().item(), error


def kernel_distance_of_pairs(features: Tensor, others: Tensor) -> tuple[float, float]:
    r"""The unbiased MMD² of N ≥ 2 pairs (x_i, y_i), two tensors (N, F), with the same k; and its jackknife error.

    Σ_{i≠j} h_ij / (N (N - 1)) with h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i) (Gretton et al., JMLR
    2012): no x_i is compared with its own y_i. The error is 2/(N - 2) times the standard error of Σ_j h_ij over i, NaN
    for two pairs.
    """
    x, y, count = features.double(), others.double(), len(features)
    sums = torch.zeros(count, dtype=torch.float64)  # of each row of h, without the diagonal
    for sign, a, b in ((1, x, x), (1, y, y), (-1, x, y), (-1, y, x)):
        sums += sign * torch.cat([_cubic(part, b).sum(1) for part in a.split(_CHUNK)])
        sums -= sign * ((a * b).mean(1) + 1) ** 3
    error = 2 * sums.std().item() / math.sqrt(count) / (count - 2) if count > 2 else math.nan
    return sums.sum().item() / (count * (count - 1)), error


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _cubic_mmd(x: Tensor, y: Tensor) -> float:
    n, m = len(x), len(y)
    xx, yy = _cubic(x, x), _cubic(y, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return (within - 2 * _cubic(x, y).mean()).item()


class Coverage(NamedTuple):
    """Overlap of two sets of images, by balls around each image whose radius is the distance to its k-th neighbour.

    Precision: fraction of the samples inside a ball around a real image; recall: fraction of the real images inside a
    ball around a sample (Kynkäänniemi et al., NeurIPS 2019). Density: number of real images' balls around a sample,
    mean over samples, over k; coverage: fraction of the real images with a sample in their own ball (Naeem et al.,
    ICML 2020).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Tensor, samples: Tensor, neighbours: int = 5) -> Coverage:
    """Precision, recall, density and coverage of features (N, F) and (M, F), each of more than ``neighbours``."""
    real_radii, sample_radii = (_radii(x, neighbours) for x in (real, samples))
    hits = torch.zeros(len(samples))
    in_sample_ball, covered = [], []
    for rows, radii in zip(real.split(_CHUNK), real_radii.split(_CHUNK), strict=True):
        distances = torch.cdist(rows, samples)  # (rows, M)
        inside = distances < radii[:, None]
        hits += inside.sum(0)
        covered.append(inside.any(1))
        in_sample_ball.append((distances < sample_radii).any(1))
    return Coverage(
        precision=(hits > 0).double().mean().item(),
        recall=torch.cat(in_sample_ball).double().mean().item(),
        density=hits.double().mean().item() / neighbours,
        coverage=torch.cat(covered).double().mean().item(),
    )


def _radii(x: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th neighbour; the smallest of k + 1 is the point itself."""
    return torch.cat([torch.cdist(rows, x).kthvalue(neighbours + 1, dim=1).values for rows in x.split(_CHUNK)])


def nearest(images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of images (N, ...) to the nearest of others (M, ...), root mean square over pixels; its index; (N,)."""
    x, y = images.flatten(1), others.flatten(1)
    # cdist's products of matrices lose small distances: those of the few nearest are taken again, of differences.
    candidates = torch.cdist(x, y).topk(min(_CANDIDATES, len(y)), largest=False).indices
    distances = torch.stack([(x - y[column]).norm(dim=1) for column in candidates.T], 1)
    distance, place = distances.min(1)
    return distance / math.sqrt(x.shape[1]), candidates.gather(1, place[:, None])[:, 0]
