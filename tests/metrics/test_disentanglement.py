"""MIG and DCI of codes whose scores are known, and their errors in finite samples."""

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from evae.metrics.disentanglement import (
    Information,
    completeness,
    dci,
    disentanglement,
    mutual_information,
    mutual_information_gap,
)

IS_CLASS = (True, False, False)


def factors(count, seed=0):
    """A factor of three classes, and two uniform ones."""
    random = np.random.default_rng(seed)
    return np.column_stack([random.integers(3, size=count), random.uniform(size=(count, 2))])


def codes(values, kind, seed=1):
    """Four latents: the factors and noise, the same with two turned by 45 degrees, or noise alone."""
    noise = np.random.default_rng(seed).normal(size=(len(values), 4))
    if kind == "noise":
        return noise
    shape, x, y = ((values - values.mean(0)) / values.std(0)).T
    if kind == "rotated":
        x, y = (x + y) / math.sqrt(2), (x - y) / math.sqrt(2)
    return np.column_stack([shape, x, y, noise[:, 0]])


class TestMutualInformation:
    def test_is_that_of_the_counts_with_millers_correction(self):
        values = factors(1000)
        z = values[:, 1] + np.random.default_rng(2).normal(size=1000)
        found = mutual_information(z[:, None], values, IS_CLASS)
        binned = np.searchsorted(np.quantile(z, np.arange(1, 20) / 20), z, side="right")
        for k, v in enumerate([values[:, 0], np.ceil(np.argsort(np.argsort(values[:, 1])) // 50)]):
            cells = len(np.unique(np.column_stack([binned, v]), axis=0))
            correction = (20 + len(np.unique(v)) - cells - 1) / 2000
            assert found.mutual[0, k] == pytest.approx(max(0, mutual_info_score(binned, v) + correction), abs=1e-12)

    def test_of_gaussians(self):
        """-½ ln(1 - ρ²), less what bins of a twentieth lose."""
        x, y = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 20_000).T
        found = mutual_information(x[:, None], y[:, None], [False]).mutual.item()
        assert -0.5 * math.log(1 - 0.8**2) * 0.95 < found < -0.5 * math.log(1 - 0.8**2)

    def test_does_not_change_with_increasing_functions_of_latents(self):
        values = factors(500)
        z = codes(values, "rotated")
        one, other = (mutual_information(c, values, IS_CLASS).mutual for c in (z, np.exp(z)))
        assert one == pytest.approx(other)

    def test_unknown_values_do_not_count(self):
        values = factors(600)
        values[500:, 1] = math.nan
        z = codes(factors(600), "perfect")
        found = mutual_information(z, values, IS_CLASS)
        alone = mutual_information(z[:500], values[:500, 1:2], [False])
        assert found.mutual[:, 1] == pytest.approx(alone.mutual[:, 0])
        assert found.entropy[1] == pytest.approx(alone.entropy[0])

    def test_of_a_constant_latent_or_factor_is_zero(self):
        values = np.column_stack([factors(100), np.ones(100), np.full(100, math.nan)])
        found = mutual_information(np.ones((100, 2)), values, (*IS_CLASS, True, False))
        assert not found.mutual.any()
        assert (found.entropy[:3] > 0).all()
        assert not found.entropy[3:].any()


class TestGap:
    @pytest.mark.parametrize(("kind", "low", "high"), [("perfect", 0.97, 1), ("rotated", 0.3, 0.7), ("noise", 0, 0.03)])
    def test_of_known_codes(self, kind, low, high):
        values = factors(1000)
        gap, error = mutual_information_gap(codes(values, kind), values, IS_CLASS)
        assert low <= gap <= high
        assert 0 < error < 0.02

    def test_of_given_information(self):
        """(3 - 1)/4 and (2 - 2)/2; the factor without entropy does not count."""
        mutual = np.array([[3.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.5, 0.0, 0.0]])
        assert Information(mutual, np.array([4.0, 2.0, 0.0])).gap == pytest.approx(0.25)
        assert math.isnan(Information(mutual, np.zeros(3)).gap)
        assert Information(mutual[:1, :1], np.array([4.0])).gap == pytest.approx(0.75)

    def test_bias_in_small_samples(self):
        """Less than 0.03 from 0 for noise and from 1 for a perfect code, as docs/factors.md says."""
        for count in (500, 1000):
            for kind, exact in (("noise", 0), ("perfect", 1)):
                drawn = [(factors(count, seed), seed) for seed in range(5)]
                gaps = [mutual_information_gap(codes(v, kind, 10 + s), v, IS_CLASS)[0] for v, s in drawn]
                assert abs(np.mean(gaps) - exact) < 0.03

    def test_error_is_the_standard_deviation_over_samples(self):
        drawn = [(factors(400, seed), seed) for seed in range(30)]
        gaps, errors = zip(
            *(mutual_information_gap(codes(v, "rotated", s), v, IS_CLASS) for v, s in drawn), strict=True
        )
        assert 0.6 < np.mean(errors) / np.std(gaps, ddof=1) < 1.7

    def test_few_images_have_no_error(self):
        values = factors(39)
        assert math.isnan(mutual_information_gap(codes(values, "noise"), values, IS_CLASS)[1])


class TestImportance:
    def test_one_latent_for_each_factor(self):
        assert disentanglement(np.eye(4, 3)) == completeness(np.eye(4, 3)) == pytest.approx(1)

    def test_all_latents_for_all_factors(self):
        assert disentanglement(np.ones((4, 3))) == pytest.approx(0, abs=1e-12)
        assert completeness(np.ones((4, 3))) == pytest.approx(0, abs=1e-12)

    def test_two_latents_for_a_factor_are_disentangled_and_incomplete(self):
        """Q = (½, ½, 0): 1 - ln 2/ln 3 for the first of two factors."""
        importance = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
        assert disentanglement(importance) == pytest.approx(1)
        assert completeness(importance) == pytest.approx((2 - math.log(2) / math.log(3)) / 2)

    def test_latents_count_by_their_importance(self):
        importance = np.array([[3.0, 0.0], [0.5, 0.5]])
        assert disentanglement(importance) == pytest.approx(3 / 4)

    @pytest.mark.parametrize("importance", [np.zeros((3, 2)), np.ones((3, 1)).T])
    def test_undefined(self, importance):
        assert math.isnan(completeness(importance))
        assert math.isnan(disentanglement(np.zeros((3, 2))))
        assert math.isnan(disentanglement(np.ones((3, 1))))


@pytest.fixture(scope="module")
def scores():
    """Of each kind of code, with 40 trees."""
    values, found = factors(500), {}
    for kind in ("perfect", "rotated", "noise"):
        z = codes(values, kind)
        found[kind] = dci(z[:300], values[:300], z[300:], values[300:], IS_CLASS, trees=40)
    return found


class TestDci:
    def test_a_perfect_code_has_one_everywhere(self, scores):
        assert scores["perfect"].disentanglement == pytest.approx(1, abs=0.01)
        assert scores["perfect"].completeness == pytest.approx(1, abs=0.01)
        assert (scores["perfect"].informativeness > 0.99).all()

    def test_a_rotated_code_is_as_informative_and_less_disentangled(self, scores):
        assert 0.5 < scores["rotated"].disentanglement < 0.9
        assert 0.5 < scores["rotated"].completeness < 0.9
        assert (scores["rotated"].informativeness > 0.95).all()

    def test_noise_tells_nothing(self, scores):
        assert scores["noise"].disentanglement < 0.1
        assert scores["noise"].completeness < 0.1
        assert (scores["noise"].informativeness < 0.05).all()

    def test_a_factor_without_known_values_does_not_count(self):
        values = factors(200)
        z = codes(values, "perfect")
        values[:, 2] = math.nan
        found = dci(z[:120], values[:120], z[120:], values[120:], IS_CLASS, trees=10)
        assert math.isnan(found.informativeness[2])
        assert found.completeness == pytest.approx(1, abs=0.02)
