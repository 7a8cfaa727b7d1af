"""Distances between feature sets against scipy, analytic values and brute force."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats

from evae.metrics.distances import (
    FeatureSet,
    coverage,
    frechet,
    frechet_distance,
    kernel_distance,
    kernel_distance_of_pairs,
    nearest,
)

DOUBLE = torch.float64


def feature_set(features, batch=7, **options):
    kept = FeatureSet(**options)
    for rows in features.split(batch):
        kept.add(rows)
    return kept


def by_scipy(x, y):
    """The usual formula, sqrtm of the product."""
    sigma, tau = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(sigma @ tau)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(sigma + tau - 2 * np.real(root))


def moments(x):
    kept = feature_set(x)
    return kept.mean, kept.covariance


@pytest.mark.parametrize(("count", "dimension"), [(200, 5), (60, 30), (500, 64)])
def test_frechet_distance_is_scipys(count, dimension):
    mixing = torch.randn(dimension, dimension, dtype=DOUBLE)
    x = torch.randn(count, dimension, dtype=DOUBLE) @ mixing + 1
    y = torch.randn(count + 10, dimension, dtype=DOUBLE)
    expected = by_scipy(x.numpy(), y.numpy())
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_singular_covariances():
    """Of 20 points in 50 dimensions; the trace is the nuclear norm of the product of the centred factors."""
    x, y = torch.randn(20, 50, dtype=DOUBLE), 2 * torch.randn(15, 50, dtype=DOUBLE) + 0.5
    a, b = (x - x.mean(0)) / math.sqrt(19), (y - y.mean(0)) / math.sqrt(14)
    trace = torch.linalg.svdvals(a @ b.T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * trace
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    "features",
    [
        torch.full((50, 300), 0.3),  # all images alike
        torch.rand(50, 1).expand(50, 300),  # rank 1
        torch.rand(50, 2) @ torch.rand(2, 300),
        0.3 + 1e-9 * torch.rand(50, 300),  # a model that hardly was trained
        0.3 + torch.rand(50, 300, dtype=DOUBLE) * 10.0 ** -torch.linspace(0, 14, 300, dtype=DOUBLE),
        1e-160 * torch.rand(50, 300, dtype=DOUBLE),  # covariances that are no normal numbers
        torch.rand(50, 300).where(torch.rand(300) < 0.1, torch.tensor(0.0)),  # dead units
        torch.rand(5, 300).repeat(10, 1),
        torch.rand(2, 300),
    ],
)
def test_frechet_distance_of_every_kind_of_singular_covariance(features):
    """Of one such set and of a regular one, in either order, it is the nuclear norm's; of a set and itself, 0."""
    x, y = features.double(), torch.rand(400, 300, dtype=DOUBLE)
    a, b = ((z - z.mean(0)) / math.sqrt(len(z) - 1) for z in (x, y))
    trace = torch.linalg.svdvals(a @ b.T).sum()
    expected = ((x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * trace).item()
    assert frechet_distance(*moments(x), *moments(y)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*moments(y), *moments(x)) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*moments(x), *moments(x)) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_gaussians_and_of_equal_sets():
    """Diagonal covariances: ‖μ₁ - μ₂‖² + Σ (σ₁ - σ₂)²."""
    mean, other = torch.randn(6, dtype=DOUBLE), torch.randn(6, dtype=DOUBLE)
    s, t = torch.rand(6, dtype=DOUBLE), torch.rand(6, dtype=DOUBLE)
    expected = ((mean - other) ** 2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(mean, (s**2).diag(), other, (t**2).diag()) == pytest.approx(expected.item(), rel=1e-9)
    x = torch.randn(100, 20, dtype=DOUBLE)
    assert frechet_distance(*moments(x), *moments(x)) == pytest.approx(0, abs=1e-10)


def test_moments_do_not_depend_on_batches_nor_on_a_large_mean():
    x = torch.randn(103, 4, dtype=DOUBLE) + 1e6
    for batch in (1, 10, 103):
        kept = feature_set(x, batch)
        assert kept.count == 103
        torch.testing.assert_close(kept.mean, x.mean(0), rtol=1e-14, atol=0)
        torch.testing.assert_close(kept.covariance, torch.cov(x.T), rtol=1e-8, atol=1e-8)
    again = FeatureSet.of_tensors(kept.tensors())
    torch.testing.assert_close(again.covariance, kept.covariance)


def test_the_selection_is_uniform():
    """Of 40,000 numbers 10,000 are kept, as many of each quarter: chi-square, fails for one seed in 10^6."""
    kept = feature_set(torch.arange(40_000.0)[:, None], 3_000).kept[:, 0]
    assert kept.unique().numel() == len(kept) == 10_000
    quarters = torch.bucketize(kept, torch.tensor([10_000.0, 20_000, 30_000])).bincount(minlength=4)
    assert stats.chisquare(quarters.numpy()).pvalue > 1e-6


def test_two_streams_of_one_length_keep_the_same_rows(monkeypatch):
    monkeypatch.setattr("evae.metrics.distances._MAX_KEPT", 20)
    x = torch.arange(103.0)[:, None]
    assert torch.equal(feature_set(x, 10).kept, feature_set(-x, 7).kept.neg())


def features_of(count, dimension, paired):
    """Two sets of Gaussian features, of pairs or independent, whose laws do not depend on that."""
    x, noise = torch.randn(count, dimension), torch.randn(count, dimension)
    return feature_set(x, count), feature_set(
        0.9 * (x if paired else torch.randn(count, dimension)) + 0.1 * noise + 0.3, count
    )


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize(("count", "dimension"), [(300, 3), (150, 32), (25, 32)])
def test_the_error_of_the_frechet_distance_is_the_spread_of_repetitions(paired, count, dimension):
    """For reconstructions, which belong to one original each, and for samples; also of fewer images than features."""
    sets = [features_of(count, dimension, paired) for _ in range(40)]
    repetitions = [frechet_distance(x.mean, x.covariance, y.mean, y.covariance) for x, y in sets]
    assert 0.5 < frechet(*sets[0]).error / np.std(repetitions) < 2.5


@pytest.mark.parametrize("paired", [False, True])
def test_the_limit_of_the_frechet_distance_is_that_of_the_laws(paired):
    """And its error is its spread, within a factor of 3; the distance itself is too large, for pairs less so."""
    limit = 32 * (0.3**2 + (1 - math.sqrt(0.9**2 + 0.1**2)) ** 2)
    results = np.array([frechet(*features_of(150, 32, paired)) for _ in range(20)])
    mean, spread = results.mean(0), results.std(0)
    assert mean[0] > limit + (0.05 if paired else 1)
    assert abs(mean[2] - limit) < 6 * spread[2] / math.sqrt(20) + 0.02 * limit
    assert 0.5 < mean[3] / spread[2] < 3


def test_the_limit_is_extrapolated_from_two_halves(monkeypatch):
    """2D - D₂ of all rows; where a quarter of them are kept, a quarter of what theirs adds to their own distance."""
    monkeypatch.setattr("evae.metrics.distances._MAX_KEPT", 40)
    for count in (40, 160):
        sets = features_of(count, 4, True)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
        places = [order[[i for i in range(40) if i % 20 % 2 == half]] for half in (0, 1)]
        rows = [[x.kept[place].double() for x in sets] for place in [order, *places]]
        kept, *halves = [frechet_distance(*moments(x), *moments(y)) for x, y in rows]
        whole = frechet_distance(sets[0].mean, sets[0].covariance, sets[1].mean, sets[1].covariance)
        result = frechet(*sets, seed=3)
        assert result.distance == whole
        assert result.limit == pytest.approx(whole - 40 / count * (sum(halves) / 2 - kept), rel=1e-5)


def test_the_errors_are_those_of_leaving_out_each_group():
    x, y = features_of(40, 3, True)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))

    def distance(rows):
        return frechet_distance(*moments(x.kept[rows].double()), *moments(y.kept[rows].double()))

    left, limits = [], []
    for group in range(20):
        rows = [i for i in range(40) if i % 20 != group]
        left.append(distance(order[rows]))
        halves = [distance(order[[i for i in rows if i % 2 == half]]) for half in (0, 1)]
        limits.append(2 * left[-1] - sum(halves) / 2)
    result = frechet(x, y)
    assert result.error == pytest.approx(19 * np.std(left, ddof=1) / math.sqrt(20), rel=1e-4)
    assert result.limit_error == pytest.approx(19 * np.std(limits, ddof=1) / math.sqrt(20), rel=1e-4)


def test_frechet_distances_at_the_edges():
    x = torch.randn(200, 8)
    whole = feature_set(x)
    assert frechet(whole, whole) == pytest.approx((0, 0, 0, 0), abs=1e-10)
    assert frechet(whole, feature_set(x[:6])).limit_error > 0
    few = frechet(whole, feature_set(x[:5]))
    assert few.error > 0
    assert math.isnan(few.limit)
    assert math.isnan(frechet(whole, feature_set(x[:2])).error)


def test_kernel_distance_is_a_direct_double_sum():
    """With as many points as one subset holds."""
    x, y = torch.randn(25, 3, dtype=DOUBLE), torch.rand(25, 3, dtype=DOUBLE)

    def k(a, b):
        return float(a @ b / 3 + 1) ** 3

    def direct(x, y):
        n = len(x)
        within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        return within - 2 * sum(k(a, b) for a in x for b in y) / n**2

    distance, error = kernel_distance(x, y, seed=4)
    random = torch.Generator().manual_seed(4)
    x, y = (s[torch.randperm(25, generator=random)] for s in (x, y))
    parts = [direct(x[i : i + 2], y[i : i + 2]) for i in range(0, 24, 2)]
    assert distance == pytest.approx(np.mean(parts))
    assert error == pytest.approx(np.std(parts, ddof=1) / math.sqrt(12))


def test_kernel_distance_is_unbiased():
    """Zero in the mean for one law: |t| < 6 over 100 pairs of sets (one seed in 10^8)."""
    values = [kernel_distance(torch.randn(60, 4), torch.randn(60, 4))[0] for _ in range(100)]
    assert abs(stats.ttest_1samp(values, 0).statistic) < 6
    distance, error = kernel_distance(torch.randn(400, 4), torch.randn(400, 4) + 1)
    assert distance > 6 * error > 0


def test_kernel_distance_of_pairs_is_a_direct_double_sum():
    """Without pairs (x_i, y_i); the error is that of leaving out each pair in turn."""
    x, y = torch.randn(14, 3, dtype=DOUBLE), torch.rand(14, 3, dtype=DOUBLE)

    def k(a, b):
        return float(a @ b / 3 + 1) ** 3

    def direct(chosen):
        pairs = [(i, j) for i in chosen for j in chosen if i != j]
        h = [k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs]
        return sum(h) / len(pairs)

    distance, error = kernel_distance_of_pairs(x, y)
    assert distance == pytest.approx(direct(range(14)), rel=1e-10)
    left_out = [direct([i for i in range(14) if i != out]) for out in range(14)]
    assert error == pytest.approx(math.sqrt(13 * np.var(left_out)), rel=1e-10)
    assert kernel_distance_of_pairs(x, x) == pytest.approx((0, 0), abs=1e-12)
    assert math.isnan(kernel_distance_of_pairs(x[:2], y[:2])[1])


def test_kernel_distance_of_pairs_is_unbiased():
    """Of reconstructions of the same law as the originals it is 0 in the mean, and its error is its spread."""

    def pairs():
        x = torch.randn(60, 4)
        return x, 0.8 * x + 0.6 * torch.randn(60, 4)

    results = np.array([kernel_distance_of_pairs(*pairs()) for _ in range(200)])
    assert abs(stats.ttest_1samp(results[:, 0], 0).statistic) < 6
    assert 0.7 < np.sqrt(np.mean(results[:, 1] ** 2)) / np.std(results[:, 0]) < 1.4


def brute_force(real, samples, k):
    """Precision, recall, density and coverage, pair by pair."""
    d = np.linalg.norm

    def radius(i, x):
        return sorted(d(x[i] - other) for other in x)[k]

    r = [radius(i, real) for i in range(len(real))]
    s = [radius(j, samples) for j in range(len(samples))]
    inside = [[d(x - y) < r[i] for y in samples] for i, x in enumerate(real)]
    return (
        np.mean([any(row[j] for row in inside) for j in range(len(samples))]),
        np.mean([any(d(x - y) < s[j] for j, y in enumerate(samples)) for x in real]),
        np.sum(inside) / (k * len(samples)),
        np.mean([any(row) for row in inside]),
    )


@pytest.mark.parametrize("shift", [0.0, 1.0, 10.0])
def test_coverage_is_a_brute_force_version(shift, monkeypatch):
    monkeypatch.setattr("evae.metrics.distances._CHUNK", 13)
    real, samples = torch.randn(40, 3), 0.7 * torch.randn(30, 3) + shift
    assert coverage(real, samples, 4) == pytest.approx(brute_force(real.numpy(), samples.numpy(), 4))


def test_nearest():
    images, others = torch.rand(4, 1, 3, 3), torch.rand(12, 1, 3, 3)
    each = torch.tensor([[(x - y).square().mean().sqrt() for y in others] for x in images])
    distance, index = nearest(images, others)
    assert distance == pytest.approx(each.amin(1), rel=1e-4)
    assert torch.equal(index, each.argmin(1))
    distance, index = nearest(others[:2], others)
    assert (distance.tolist(), index.tolist()) == ([0, 0], [0, 1])


def test_nearest_of_near_duplicates():
    """An exact duplicate among copies that differ by 1e-4, which products of matrices in float32 cannot tell apart."""
    image = torch.rand(1, 3, 32, 32)
    others = torch.cat([torch.rand(50, 3, 32, 32), image + 1e-4, image, image - 2e-4])
    distance, index = nearest(torch.cat([image, image - 1.9e-4]), others)
    assert index.tolist() == [51, 52]
    assert distance.tolist() == pytest.approx([0, 1e-5], rel=0.02)
