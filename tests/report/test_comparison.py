"""Comparisons: what is marked as best and what is not, the files, the page, and runs that cannot be compared."""

import csv
import json
import math
import shutil
from functools import partial

import pytest

from evae import EVAE, WAE, GaussianVAE, evaluate, train
from evae.errors import ConfigError, RunError
from evae.report import charts
from evae.report.comparison import compare
from evae.report.ranking import best, disagreement, incomparable
from evae.report.tables import Cell, Grid, latex, markdown
from tests.report.html_pages import CHROMIUM, Page, browse
from tests.small import trained


@pytest.fixture(scope="module")
def runs(blobs, tmp_path_factory):
    """Three evaluated runs, their reconstructions unlike enough for some to be marked."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for family in (EVAE, GaussianVAE, WAE):
            evaluate(trained(family, blobs, folder / family.__name__), show=False)
    return folder


@pytest.fixture
def copied(runs, tmp_path):
    return shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("checkpoints"))


def change(run, **changes):
    """Alter a run's evaluation."""
    path = run / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return run


def measured(run, **metrics):
    """Replace a run's metrics by (value, standard error) pairs."""
    errors = {name: error for name, (_, error) in metrics.items() if error is not None}
    return change(
        run, latents_report={}, metrics={name: value for name, (value, _) in metrics.items()}, standard_errors=errors
    )


class TestRanking:
    @pytest.mark.parametrize(
        ("column", "values", "expected"),
        [
            ("mse", [(1, 0.1), (2, 0.1), (3, 0.1)], 0),
            ("psnr", [(1, 0.1), (2, 0.1), (3, 0.1)], 2),
            ("bce", [(3, 0.3), (2.01, 0.4), (9, 99)], 1),  # the combined error is 0.5, and 1.96 times that 0.98
            ("bce", [(3, 0.3), (2.03, 0.4), (9, 99)], None),
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
            ("sharpness_real", [(1, 0.1), (2, 0.1)], None),
            ("linear accuracy, latents", [(0, 0.01), (1, 0.01)], None),
            ("samples: fid", [(1, 0.1), (2, 0.1)], 0),
            ("reconstructions: kid", [(3, 0.1), (2, 0.1)], 1),
            ("samples: coverage", [(1, 0.1), (2, 0.1)], 1),
        ],
    )
    def test_best(self, column, values, expected):
        assert best(column, [{column: value} for value in values]) == expected

    def test_runs_without_the_number(self):
        assert best("mse", [{}, {"mse": (3, 0.1)}, {"mse": (2, 0.1)}]) == 2

    def test_disagreement_is_one_sentence(self):
        same = {"data": "a", "images": "f" * 32, "split": "holdout", "latents": "mean", "count": 3}
        assert disagreement({"x": same, "y": same | {"seed": 1}}) is None
        sentence = disagreement({"x": same, "y": same | {"images": "0" * 32, "latents": "sample"}})
        assert sentence == (
            "Nothing is marked as best, for the runs were evaluated differently (images: a [ffffffff] for x, "
            "a [00000000] for y; latents: mean for x, sample for y)."
        )

    def test_incomparable_columns(self):
        def scored(count):
            return {"distances": {"samples": {"features": "f", "count": count, "fid": 0.5}}}

        assert incomparable({"x": scored(3), "y": scored(3), "z": {}}, dict.fromkeys("xyz", "Bernoulli")) == {}
        assert incomparable({"x": scored(3), "y": scored(4)}, {"x": "Bernoulli", "y": "Gaussian"}).keys() == {
            "samples: ",
            "reconstruction",
        }


class TestFiles:
    def test_tables_hold_the_same_numbers(self, copied, tmp_path, capsys, undrawn):
        a, b = copied / "EVAE", copied / "GaussianVAE"
        measured(a, bce=(100, 1), mse=(0.0123456, None), penalty=(1.5, 0.25))
        measured(b, bce=(110, 1), mse=(0.5, None), kl=(20, 0.5))
        assert compare([a, b], tmp_path / "out") == tmp_path / "out"
        assert (tmp_path / "out" / "table.md").read_text() == (
            "| run | model | bce | mse | penalty | kl |\n"
            "| --- | --- | ---: | ---: | ---: | ---: |\n"
            "| EVAE | EVAE | **100 ± 1** | 0.01235 | 1.5 ± 0.2 |  |\n"
            "| GaussianVAE | GaussianVAE | 110 ± 1 | 0.5 |  | 20 ± 0.5 |\n"
        )
        lines = (tmp_path / "out" / "table.tex").read_text().splitlines()
        assert lines[0] == r"\begin{tabular}{llrrrr}"
        assert r"EVAE & EVAE & \textbf{100 $\pm$ 1} & 0.01235 & 1.5 $\pm$ 0.2 &  \\" in lines
        assert lines[-1] == r"\end{tabular}"
        first, second = csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())
        assert (float(first["mse"]), first["mse standard error"], first["kl"]) == (0.0123456, "", "")
        assert (second["run"], float(second["kl"]), float(second["kl standard error"])) == ("GaussianVAE", 20, 0.5)
        assert Page(tmp_path / "out" / "comparison.html").bold == ["100 ± 1"]
        printed = capsys.readouterr().out
        for expected in ("100 ± 1", "110 ± 1", "0.01235", "20 ± 0.5"):
            assert expected in printed

    def test_the_folder_is_comparison_by_default(self, runs, tmp_path, monkeypatch, undrawn):
        monkeypatch.chdir(tmp_path)
        compare([runs / "EVAE", runs / "WAE"])
        names = {path.name for path in (tmp_path / "comparison").iterdir()}
        assert names == {"table.md", "table.csv", "table.tex", "comparison.html"}

    def test_signs_that_mean_something(self):
        grid = Grid(
            ["a|b_c", "x"], [[Cell("$1_{a}%&#~^\\"), Cell("[b]<c>\n*", bold=True)], [Cell("≥"), Cell("", True)]]
        )
        assert markdown(grid).splitlines()[0] == r"| a\|b\_c | x |"
        assert r"**\[b\]\<c\> \***" in markdown(grid)
        assert len(markdown(grid).splitlines()) == 4
        assert r"\$1\_\{a\}\%\&\#\textasciitilde{}\textasciicircum{}\textbackslash{} & \textbf{{[}b{]}" in latex(grid)
        assert latex(grid).splitlines()[-3] == r"$\geq$ &  \\"


class TestPage:
    def test_everything_is_there(self, runs, tmp_path, monkeypatch):
        drawn = {}
        for name in ("plane", "curves"):
            real = getattr(charts, name)
            monkeypatch.setattr(charts, name, lambda *a, name=name, real=real: drawn.setdefault(name, a) and real(*a))
        names = ("EVAE", "GaussianVAE", "WAE")
        page = Page(compare([runs / name for name in names], tmp_path) / "comparison.html")
        alts = [image["alt"] for image in page.images]
        assert alts[0] == "8 hold-out images"
        assert alts[1:4] == [f"reconstructions of the same images by {name}" for name in names]
        assert [point.name for point in drawn["plane"][0]] == list(names)
        assert [point.triangular for point in drawn["plane"][0]] == [True, False, True]
        results = [json.loads((runs / name / "evaluation.json").read_text())["metrics"] for name in names]
        rates = [result[name] for result, name in zip(results, ("penalty", "kl", "mmd"), strict=True)]
        assert [point.x for point in drawn["plane"][0]] == rates
        assert [point.y for point in drawn["plane"][0]] == [result["reconstruction"] for result in results]
        assert drawn["plane"][3] == ("KL, in nats", "penalty or MMD: not a KL")
        assert [curve.name for curve in drawn["curves"][0]] == ["EVAE", "", "GaussianVAE", "", "WAE", ""]
        assert all(len(curve.points) == 1 for curve in drawn["curves"][0])

    @pytest.mark.parametrize("changes", [{"images": "0" * 32}, {"split": "train"}, {"latents": "mean"}], ids=str)
    def test_runs_evaluated_differently_are_not_ranked(self, copied, tmp_path, changes, capsys, undrawn):
        a = measured(copied / "EVAE", bce=(100, 1))
        b = change(measured(copied / "GaussianVAE", bce=(110, 1)), **changes)
        page = Page(compare([a, b], tmp_path / "out") / "comparison.html")
        assert page.bold == []
        assert page.text.count("Nothing is marked as best, for the runs were evaluated differently") == 1
        assert "**" not in (tmp_path / "out" / "table.md").read_text()
        assert "textbf" not in (tmp_path / "out" / "table.tex").read_text()
        assert "Nothing is marked as best" in capsys.readouterr().err

    def test_reconstructions_of_other_images_stand_apart(self, runs, blobs, tmp_path, undrawn):
        options = {"epochs": 1, "batch_size": 16, "image_size": 32, "accelerator": "cpu"}
        other = train(blobs, tmp_path / "large", partial(EVAE, latent_dim=3), **options)
        evaluate(other, show=False)
        page = Page(compare([runs / "EVAE", other], tmp_path / "out") / "comparison.html")
        alts = [image["alt"] for image in page.images]
        assert alts.count("8 hold-out images") == 2
        assert "Nothing is marked as best" in page.text
        assert page.bold == []

    def test_distances_of_reconstructions_and_of_samples(self, copied, tmp_path, undrawn):
        def scores(value, count):
            return {"features": "inception", "count": count, "fid": value, "fid_error": 0.5}

        a = measured(copied / "EVAE", bce=(100, 99))
        b = measured(copied / "GaussianVAE", bce=(110, 99))
        change(a, distances={"reconstructions": scores(10.0, 16), "samples": scores(90.0, 16)})
        change(b, distances={"reconstructions": scores(20.0, 16), "samples": scores(30.0, 99)})
        page = Page(compare([a, b], tmp_path / "out") / "comparison.html")
        assert "reconstructions: fid" in page.text
        assert "samples: fid" in page.text
        assert page.bold == ["10 ± 0.5"]
        assert "samples is not ranked: they were computed from different numbers of images or features." in page.text

    def test_other_likelihoods_have_other_units(self, copied, tmp_path, undrawn):
        for name, value in (("EVAE", 100), ("GaussianVAE", 200)):
            measured(copied / name, reconstruction=(value, 1), bce=(value, 1))
        config = json.loads((copied / "EVAE" / "config.json").read_text())
        (copied / "EVAE" / "config.json").write_text(json.dumps(config | {"likelihood": "continuous_bernoulli"}))
        page = Page(compare([copied / "EVAE", copied / "GaussianVAE"], tmp_path / "out") / "comparison.html")
        assert page.bold == ["100 ± 1"]  # the bce
        assert "reconstruction is not ranked: the models have different likelihoods p(x|z)." in page.text

    def test_names_of_every_kind(self, copied, tmp_path):
        names = ["_a$x_{$", "b<script>&\"'|é漢\n", "x" * 120]
        folders = [
            (copied / old).rename(copied / new) for old, new in zip(("EVAE", "GaussianVAE", "WAE"), names, strict=True)
        ]
        page = Page(compare(folders, tmp_path / "out") / "comparison.html")
        for name in names:
            assert name.strip() in page.text

    def test_runs_of_one_name(self, copied, tmp_path, undrawn):
        twin = shutil.copytree(copied / "EVAE", tmp_path / "b" / "EVAE")
        page = Page(compare([copied / "EVAE", twin], tmp_path / "out") / "comparison.html")
        assert "runs/EVAE" in page.text
        assert "b/EVAE" in page.text

    def test_what_is_missing_is_left_out(self, copied, tmp_path):
        for name in ("EVAE", "WAE"):
            (copied / name / "metrics.jsonl").unlink()
            (copied / name / "evaluation.json").write_text("{}")
        page = Page(compare([copied / "EVAE", copied / "WAE"], tmp_path / "out") / "comparison.html")
        assert len(page.images) == 3


class TestErrors:
    def test_too_few_runs(self, runs, tmp_path):
        for folders in ([], [runs / "EVAE"]):
            with pytest.raises(ConfigError, match="a comparison needs two runs or more"):
                compare(folders, tmp_path / "out")
        with pytest.raises(ConfigError, match="is named twice"):
            compare([runs / "EVAE", runs / "WAE", runs / "WAE" / ".." / "EVAE"], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_runs_that_are_none(self, copied, tmp_path):
        with pytest.raises(RunError, match="nowhere is no run folder: it does not exist"):
            compare([copied / "EVAE", tmp_path / "nowhere"])
        (copied / "WAE" / "evaluation.json").unlink()
        with pytest.raises(RunError, match=r"WAE has not been evaluated; evae evaluate .*WAE does that$"):
            compare([copied / "EVAE", copied / "WAE"])
        (copied / "WAE" / "evaluation.json").write_text("{")
        with pytest.raises(RunError, match=r"evaluation\.json is damaged"):
            compare([copied / "EVAE", copied / "WAE"])

    def test_output_that_cannot_be_written(self, runs, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="could not be written"):
            compare([runs / "EVAE", runs / "WAE"], tmp_path / "file")


def test_labels_keep_clear_of_each_other_and_stay_inside(monkeypatch):
    monkeypatch.setattr(charts, "_png", lambda figure: figure)
    places = [(1, 1), (1, 1.02), (1.01, 1), (1.01, 1.03), (9, 5), (9, 1)]
    figure = charts.plane([charts.Point(f"run {i}", x, y) for i, (x, y) in enumerate(places)], "x", "y", ("a", "b"))
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert len(boxes) == len(places)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert all(figure.axes[0].bbox.containsx(x) for box in boxes for x in (box.x0, box.x1))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(runs, tmp_path, width):
    folder = compare([runs / name for name in ("EVAE", "GaussianVAE", "WAE")], tmp_path / "out")
    said, laid_out = browse(folder / "comparison.html", tmp_path, width)
    assert said == []
    assert laid_out["page"] <= laid_out["window"] <= width
    assert len(laid_out["images"]) == 6
    assert all(loaded and pixels > 0 and shown > 80 for loaded, pixels, shown in laid_out["images"])
