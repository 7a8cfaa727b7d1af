"""Curves from cells that were never trained, what is said of them, and the command from images to the page."""

import csv
import math
import re

import pytest
import yaml

from evae.benchmark.cells import cells_of
from evae.benchmark.spec import read_spec
from evae.cli import main
from evae.tradeoff import tradeoff
from evae.tradeoff.advice import advice, compared
from evae.tradeoff.curves import Curve, Estimate, Point, curves_of
from evae.tradeoff.spec import CURVES, spec_text
from tests.reporting.records import evaluation, number


def curve(name, *points, error=0.0):
    """Points of (rate, distortion, sharpness)."""
    return Curve(
        name,
        "weight",
        [
            Point(f"{i}", Estimate(r), "model", Estimate(d, error), Estimate(s), 0.06)
            for i, (r, d, s) in enumerate(points)
        ],
    )


LOW = curve("low", (10, 150, 0.02), (30, 130, 0.03), (90, 120, 0.05))
HIGH = curve("high", (20, 150, 0.02), (60, 135, 0.04))


class TestAdvice:
    def test_compares_at_equal_rates(self):
        """Between 20 and 60 nats, linear between the points: at 30 nats the upper curve is at 146.25."""
        (pair,) = compared([HIGH, LOW])
        assert (pair.first.name, pair.second.name, pair.rates) == ("low", "high", (20, 60))
        low = (0.5 * (140 + 130) * 10 + 0.5 * (130 + 125) * 30) / 40
        assert pair.difference == pytest.approx(low - 142.5, rel=1e-12)
        assert pair.is_clear

    def test_without_common_rates_there_is_no_comparison(self):
        assert compared([LOW, curve("far", (100, 10, 0.1), (200, 5, 0.1))]) == []

    def test_numbers_are_of_the_curves(self):
        lowest, price, choice = advice([HIGH, LOW])
        assert lowest.startswith("At equal rate low has the lowest distortion; high comes next, with 13.1 nats more")
        assert "From low with weight = 0 to low with weight = 2 sharpness rises from 33% to 83%" in price
        assert "80 nats of rate, and the bound on -ln p(x) gets 50 nats worse" in price
        assert choice.startswith("Choose low with weight = 0 for likelihoods (160.0 nats)")

    def test_small_differences_are_told_as_none(self):
        noisy = [curve("a", (10, 100, 0.02), (20, 90, 0.03), error=1.0), curve("b", (10, 101, 0.02), (20, 91, 0.03))]
        assert "no difference is shown" in advice(noisy)[0]
        assert "no difference is shown" in str(compared(noisy)[0])

    def test_the_best_bound_is_enough_where_nothing_is_sharper(self):
        told = advice([curve("a", (10, 100, 0.03), (20, 95, 0.03))])
        first = "a with weight = 0 has the best bound on -ln p(x), 110.0 nats"
        assert told == [f"{first}, and no setting is shown to be sharper: choose it."]

    def test_no_curve_is_lowest_where_each_loses_somewhere(self):
        a = curve("a", (0, 10, 1), (10, 9, 1))
        b = curve("b", (5, 8, 1), (20, 7, 1))
        c = curve("c", (15, 6, 1), (30, 5, 1))
        assert "nats more on average" in advice([a, b])[0]
        circle = [a, b, c, curve("d", (0, 3, 1), (4, 3, 1)), curve("e", (25, 9, 1), (40, 9, 1))]
        assert advice(circle)[0].startswith("No curve")


@pytest.fixture
def finished(tmp_path):
    """Cells of a spec, each with an evaluation of the given numbers."""

    def of(curves, values, seeds=1):
        path = tmp_path / "spec.yaml"
        path.write_text(spec_text("mnist5k", curves, 2, seeds, epochs=1))
        return [(c, evaluation_of(values(c))) for c in cells_of(read_spec(path))]

    return of


def evaluation_of(values):
    from evae.runs.evaluation import Section

    return evaluation(Section("reconstructions", "", tuple(number(name, value, 0.1) for name, value in values.items())))


def test_the_rate_is_the_least_of_both_priors(finished):
    def values(cell):
        beta = float(cell.values["model.beta"])
        return {"kl": 5 / beta, "rate, fitted prior": 20 - beta, "reconstruction": 100 + beta, "sharpness": 0.01}

    ((found,), without) = curves_of(finished(["beta"], values))
    assert (found.name, found.parameter, without) == ("BetaVAE", "beta", [])
    assert [(p.setting, p.prior) for p in found.points] == [
        ("3.0", "model"),
        ("1.0", "model"),
        ("0.3", "model"),
        ("0.1", "fitted"),
        ("0.03", "fitted"),
    ]


def test_curves_are_named_by_what_distinguishes_them(finished):
    def values(cell):
        return {"rate, fitted prior": 1.0, "reconstruction": 100.0, "sharpness": 0.01}

    found, _ = curves_of(finished(list(CURVES), values))
    assert [(c.name, c.parameter, len(c.points)) for c in found] == [
        ("BetaVAE", "beta", 5),
        ("EVAE", "support_length", 5),
        ("EVAE, support_length 1.0", "bandwidth", 4),
        ("BoundedVAE, kernel epanechnikov, prior kernel", "weight", 5),
        *((f"BoundedVAE, prior kernel, kernel {name}", "weight", 3) for name in ("uniform", "biweight", "triweight")),
    ]


def test_seeds_are_averaged_and_models_without_a_rate_are_named(finished):
    def values(cell):
        seed = cell.train["seed"]
        return {"kl": 10 + seed, "reconstruction": 100 - seed, "sharpness": 0.01}

    ((found,), _) = curves_of(finished(["weight"], values, seeds=3))
    assert found.points[0].rate == Estimate(11, 1)
    assert curves_of(finished(["beta"], lambda cell: {"reconstruction": 1.0, "sharpness": 0.1})) == ([], ["BetaVAE"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--data is missing"),
        (["--data", "mnist5k", "--spec", "x.yaml"], "--spec names the data"),
        (["--data", "mnist5k", "--curves", "alpha"], "alpha"),
        (["--data", "mnist5k", "--seeds", "0"], "seeds"),
    ],
)
def test_bad_input(arguments, told, tmp_path, capsys):
    assert main(["tradeoff", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "cells").exists()


@pytest.mark.slow
def test_from_images_to_the_page(blobs, tmp_path, capsys):
    out = tradeoff(blobs, tmp_path / "out", "beta", epochs=1, latent_dim=2, batch_size=16, image_size=16)
    printed = capsys.readouterr().out
    with (out / "tradeoff.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    assert all(math.isfinite(float(row["rate"])) for row in rows)
    page = (out / "tradeoff.html").read_text()
    assert "the best bound" in page
    assert "the best bound" in printed
    assert re.search(r"BetaVAE\s*\| beta 0.03", (out / "tradeoff.md").read_text())
    spec = yaml.safe_load((out / "tradeoff.yaml").read_text())
    spec["train"]["model"]["grid"] = [{"class_path": "AE", "init_args": {"latent_dim": 2}}]
    (tmp_path / "ae.yaml").write_text(yaml.safe_dump(spec))
    assert main(["tradeoff", "--spec", str(tmp_path / "ae.yaml"), "--out", str(out)]) == 2
    assert "has a rate" in capsys.readouterr().err
