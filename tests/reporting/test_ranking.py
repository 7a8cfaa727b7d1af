"""What is marked as best: which test is used, how often it errs, and what is not compared."""

import math

import numpy as np
import pytest
import scipy.stats

from evae.reporting.ranking import Result, best, disagreement, incomparable, significant
from evae.runs.evaluation import Number, Section
from tests.reporting.records import evaluation, number


def result(metric, *values, images=None, better=None, reference=None):
    """Of a run for each (value, standard error)."""
    numbers = [number(metric, *value) for value in values]
    if better:
        numbers = [Number(metric, *value, better, reference) for value in values]
    return Result(numbers, images)


def marked(results):
    """The index of the best where it is significant."""
    verdict = best(results)
    return verdict.row if verdict is not None and significant({"x": verdict}) else None


class TestBest:
    @pytest.mark.parametrize(
        ("metric", "values", "expected"),
        [
            ("mse", [(1, 0.1), (2, 0.1), (3, 0.1)], 0),
            ("psnr", [(1, 0.1), (2, 0.1), (3, 0.1)], 2),
            ("bce", [(3, 0.3), (2.01, 0.4), (9, 0.1)], 1),  # the combined error is 0.5, and 1.96 times that 0.98
            ("bce", [(3, 0.3), (2.03, 0.4), (9, 0.1)], None),
            ("bce", [(3, 0.3), (2.01, 0.4), (9, 99)], None),  # better than each of the others, not only the second
            ("mse", [(1, 0), (1, 0)], None),
            ("mse", [(1, 0), (2, 0)], 0),
            ("mse", [(1, 0.1), (2, None)], None),
            ("mse", [(1, None), (2, None)], None),
            ("mse", [(1, None), (2, 0.1), (9, 0.1)], None),
            ("mse", [(math.nan, 0.1), (2, 0.1), (9, 0.1)], 1),
            ("psnr", [(math.inf, None), (2, 0.1), (9, 0.1)], 2),
            ("mse", [(1, 0.1)], None),
            ("mse", [], None),
            ("kl", [(1, 0.1), (2, 0.1)], None),
            ("model prior: fid", [(1, 0.1), (2, 0.1)], 0),
        ],
    )
    def test_standard_errors(self, metric, values, expected):
        assert marked([result(metric, value) for value in values]) == expected

    def test_runs_without_the_number(self):
        assert marked([None, result("mse", (3, 0.1)), result("mse", (2, 0.1))]) == 2

    def test_images_are_paired(self):
        """What all images have in common is no reason not to see a difference."""
        rng = np.random.default_rng(0)
        images = rng.normal(0, 10, 500)
        values = [images + rng.normal(mean, 0.1, 500) for mean in (0.1, 0)]
        results = [result("mse", (v.mean(), v.std() / 500**0.5), images=v) for v in values]
        verdict = best(results)
        assert verdict.row == 1
        assert verdict.tests == ("paired t-test over images",)
        assert verdict.p == pytest.approx(scipy.stats.ttest_rel(*values).pvalue)
        assert marked([Result(r.numbers) for r in results]) is None

    def test_higher_values_are_paired_too(self):
        values = np.random.default_rng(0).normal([[1], [0]], 1, (2, 50))
        verdict = best([result("psnr", (v.mean(), 9), images=v) for v in values])
        assert verdict.row == 0
        assert verdict.p == pytest.approx(scipy.stats.ttest_rel(*values).pvalue)

    def test_seeds_are_what_is_tested_where_there_are_several(self):
        seeds = [[1.0, 1.2, 1.1], [2.0, 2.5]]
        same = np.zeros(9)
        verdict = best([result("mse", *((value, 9) for value in of_row), images=same) for of_row in seeds])
        assert verdict.row == 0
        assert verdict.tests == ("Welch's t-test over seeds",)
        assert verdict.p == pytest.approx(scipy.stats.ttest_ind(*seeds, equal_var=False).pvalue)
        assert str(result("mse", (1.0, 9), (1.2, 9))) == "1.10 ± 0.14"
        assert str(result("mse", (100.0, 9), (170, 9))) == "135 ± 49"

    def test_one_seed_against_several_is_tested_over_images(self):
        a, b = np.random.default_rng(0).normal(size=(2, 50))
        verdict = best([result("mse", (1, 9), (1.2, 9), images=a), result("mse", (0, 9), images=b)])
        assert verdict.tests == ("paired t-test over images",)
        assert best([result("mse", (1, 0.1), (1.2, 0.1)), result("mse", (0, 0.1))]) is None

    @pytest.mark.parametrize(
        ("values", "expected"), [([1.5, 3], 0), ([3, 2.2], 1), ([1, 3], None), ([2, 9], 0), ([0, 3.1], 1)]
    )
    def test_closest_to_a_reference(self, values, expected):
        """Neither the highest nor the lowest; at equal distances on both sides none."""
        results = [result("sharpness", (value, 0.1), better="reference", reference=2) for value in values]
        assert marked(results) == expected

    def test_distances_to_a_reference_are_paired(self):
        a, b = np.random.default_rng(0).normal(size=(2, 60))

        def p(first, second):
            of_runs = [result("x", (v.mean(), 9), images=v, better="reference", reference=0) for v in (first, second)]
            return best(of_runs).p

        same_side, sum_of_both = scipy.stats.ttest_rel(a + 3, b + 4), scipy.stats.ttest_rel(a + 3, 4 - b)
        assert p(a + 3, b + 4) == pytest.approx(same_side.pvalue)
        assert p(a + 3, b - 4) == pytest.approx(sum_of_both.pvalue)

    def test_holm(self):
        heights = {"a": 3, "b": 2.3, "c": 2}
        verdicts = {name: best([result("mse", (0, 1)), result("mse", (z, 0))]) for name, z in heights.items()}
        assert significant(verdicts) == {"a", "b", "c"}  # p = 0.003, 0.02, 0.05: at most 0.05/3, 0.05/2, 0.05
        assert significant({name: verdicts[name] for name in "bc"} | {"d": verdicts["c"]}) == set()


class TestErrorRate:
    """Runs that do not differ: some number of a table is marked as best in at most 5 % of tables."""

    @pytest.mark.parametrize("runs", [2, 5])
    @pytest.mark.parametrize("kind", ["images", "errors", "seeds", "reference"])
    def test_equal_runs(self, runs, kind):
        rng = np.random.default_rng(runs)
        tables, metrics, count = (1000 if runs == 2 else 300), 4, 100
        wrong = 0
        for _ in range(tables):
            values = rng.normal(size=(metrics, runs, count))
            if kind in ("images", "reference"):
                values += rng.normal(size=(metrics, 1, count))  # some images are harder for all runs
            verdicts = {str(i): best([self.row(v, kind) for v in values[i]]) for i in range(metrics)}
            wrong += bool(significant(verdicts))
        assert wrong / tables < 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
        if runs == 2 and kind != "reference":
            assert wrong / tables > 0.02  # nor are they too careful

    def row(self, values, kind):
        mean, error = values.mean(), values.std(ddof=1) / len(values) ** 0.5
        if kind == "seeds":
            return result("mse", *((value, None) for value in values[:4]))
        if kind == "reference":
            return result("sharpness", (mean, error), images=values, better="reference", reference=0.1)
        return result("mse", (mean, error), images=values if kind == "images" else None)

    def test_a_difference_is_found(self):
        rng = np.random.default_rng(0)
        found = 0
        for _ in range(100):
            values = rng.normal([[0], [0], [-0.5]], 1, (3, 100)) + rng.normal(0, 5, 100)
            found += marked([result("mse", (v.mean(), 1), images=v) for v in values]) == 2
        assert found > 80


class TestComparable:
    def test_disagreement_is_one_sentence(self):
        same = evaluation(data="a", images="f" * 32, latents="mean")
        other = {"data": "a", "images": "0" * 32, "latents": "sample"}
        assert disagreement({"x": same, "y": evaluation(data="b", images="f" * 32, latents="mean", seed=1)}) is None
        assert disagreement({"x": same, "y": evaluation(**other)}) == (
            "Nothing is marked as best, because the runs were evaluated differently (images: a [ffffffff] for x, "
            "a [00000000] for y; latents: mean for x, sample for y)."
        )
        cropped = evaluation(data="a", images="f" * 32, latents="mean", transform={"size": 16, "crop": 8})
        assert "size: 16 pixels for x, 16 pixels, cropped to 8 for y" in disagreement({"x": same, "y": cropped})

    def test_settings_of_all_numbers_and_of_one_kind(self):
        def scored(**settings):
            numbers = [number(name, 0.5) for name in ("reconstructions: fid", "model prior: fid")]
            return evaluation(Section("distances", "", tuple(numbers), settings))

        same, bernoulli = scored(features="f", **{"model prior: count": 3}), ["Bernoulli"] * 3
        assert incomparable([same, same, evaluation()], bernoulli) == {}
        reason = "the runs were measured with different settings ({})"
        assert incomparable([same, evaluation(), scored(features="f", **{"model prior: count": 4})], bernoulli) == {
            "model prior: fid": reason.format("model prior: count")
        }
        assert incomparable([same, same, scored(**{"model prior: count": 3})], bernoulli) == dict.fromkeys(
            ("reconstructions: fid", "model prior: fid"), reason.format("features")
        )

    def test_likelihoods_have_units(self):
        sections = [
            Section("reconstructions", "", (number("reconstruction", 1), number("bce", 1))),
            Section("likelihood", "", (number("ln p(x) ≥", 1),)),
        ]
        both = [evaluation(*sections)] * 2
        assert incomparable(both, ["Bernoulli", "Bernoulli"]) == {}
        reason = "the models have different likelihoods p(x|z)"
        assert incomparable(both, ["Bernoulli", "Gaussian"]) == {"reconstruction": reason, "ln p(x) ≥": reason}
