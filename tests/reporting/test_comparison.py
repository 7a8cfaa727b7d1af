"""Comparisons: what is marked as best and what is not, the files, the page, and runs that cannot be compared."""

import csv
import json
import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
import yaml

from evae import EVAE, WAE, GaussianVAE, evaluate, train
from evae.errors import ConfigError, RunError
from evae.reporting import charts
from evae.reporting.comparison import compare
from evae.reporting.tables import Cell, Grid, latex, markdown, print_grid
from evae.runs.evaluation import Section
from tests.reporting.html_pages import CHROMIUM, Page, browse
from tests.reporting.records import change, measured, number
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


class TestFiles:
    def test_tables_hold_the_same_numbers(self, copied, tmp_path, capsys, undrawn):
        a, b = copied / "EVAE", copied / "GaussianVAE"
        measured(a, bce=(100, 1), mse=(0.0123456, None), penalty=(1.5, 0.25))
        measured(b, bce=(110, 1), mse=(0.5, None), kl=(20, 0.5))
        assert compare([a, b], tmp_path / "out") == tmp_path / "out"
        table, *notes = (tmp_path / "out" / "table.md").read_text().split("\n\n")
        assert table == (
            "| run | model | bce ↓ | mse ↓ | penalty | kl |\n"
            "| --- | --- | ---: | ---: | ---: | ---: |\n"
            "| EVAE | EVAE | **100 ± 1** | 0.01235 | 1.5 ± 0.2 |  |\n"
            "| GaussianVAE | GaussianVAE | 110 ± 1 | 0.5 |  | 20.0 ± 0.5 |"
        )
        assert notes[0] == "±: standard error over images, not over repeated training."
        assert notes[1].startswith(
            "↓ lower is better. bce, kl: nats per image, or row; mse: per pixel, or column; penalty: "
        )
        assert notes[2] == (
            "Bold: better than every other row. Two-sided tests: z-test with combined standard errors (bce); "
            "Holm's correction over all of these, family-wise error rate 5%. Tests over images compare these "
            "weights, not other seeds.\n"
        )
        lines = (tmp_path / "out" / "table.tex").read_text().splitlines()
        assert r"\caption{2 runs, evaluated on 16 images of blobs.npz.}" in lines
        assert r"\begin{tabular}{llrrrr}" in lines
        assert r"EVAE & EVAE & \textbf{100 $\pm$ 1} & 0.01235 & 1.5 $\pm$ 0.2 &  \\" in lines
        assert all(line.startswith("% ") for line in lines[lines.index(r"\end{table}") + 1 :])
        first, second = csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines())
        assert (float(first["mse"]), first["mse standard error"], first["kl"]) == (0.0123456, "", "")
        assert (second["run"], float(second["kl"]), float(second["kl standard error"])) == ("GaussianVAE", 20, 0.5)
        assert Page(tmp_path / "out" / "comparison.html").bold == ["100 ± 1"]
        printed = capsys.readouterr().out
        for expected in ("100 ± 1", "110 ± 1", "0.01235", "20.0 ± 0.5"):
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
        assert r"\$1\_\{a\}\%\&\#\textasciitilde{}\textasciicircum{}\textbackslash{} & $\geq$ \\" in latex(grid)
        assert r"x & \textbf{{[}b{]}" in latex(grid)
        assert markdown(grid, ["a_b\nc"]).endswith("\n\na\\_b c\n")
        assert latex(grid, ["a_b\nc"]).endswith("\n% a_b c\n")

    @pytest.mark.parametrize(("runs", "metrics"), [(2, 12), (9, 12), (30, 3)])
    def test_latex_fits_a_page(self, runs, metrics):
        """The text of an article is 345 points wide; a small digit is 4.6, a gap between columns is 8."""
        header = ["run", "model", *(f"metric {i}" for i in range(metrics))]
        rows = [[Cell(f"run {i}"), Cell("EVAE"), *[Cell("0.1234 ± 0.001")] * metrics] for i in range(runs)]
        parts = re.findall(r"\\begin{tabular}{(l+)(r+)}\n(.*?)\\end{tabular}", latex(Grid(header, rows, 2)), re.DOTALL)
        assert 1 <= len(parts) <= 4
        for words, numbers, text in parts:
            lines = [line[:-3].replace(r"$\pm$", "±").split(" & ") for line in text.splitlines() if " & " in line]
            widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
            assert len(widths) == len(words + numbers)
            assert 4.6 * sum(widths) + 8 * len(widths) <= 345
        cells = [cell for _, _, text in parts for line in text.splitlines() for cell in line.split(" & ")]
        assert sum("0.1234" in cell for cell in cells) == runs * metrics

    @pytest.mark.parametrize("count", [2, 9])
    def test_terminals_of_80_columns(self, count, capsys, monkeypatch):
        """Numbers stay whole, whichever way the table is printed."""
        monkeypatch.setenv("COLUMNS", "80")
        header = ["run", "model", "bce ↓", "model prior: nearest_training_distance"]
        rows = [
            [Cell(f"{i}-{'x' * 40}"), Cell("EVAE"), Cell("123.4 ± 0.1"), Cell("0.0123 ± 0.0004")] for i in range(count)
        ]
        print_grid(Grid(header, rows, 2))
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert len(lines) < 12 + 4 * count
        for text in ("123.4 ± 0.1 ", "0.0123 ± 0.0004 "):
            assert sum(line.count(text) for line in lines) == count

    def test_columns(self, copied, tmp_path, undrawn):
        """Those that say nothing are told in the notes, unless they are asked for."""
        folders = [copied / "EVAE", copied / "GaussianVAE"]
        fid = Section("distances", "", (number("model prior: fid", 3.0), number("ln p(x) ≥, fitted prior", 1.0)))
        for folder, bce in zip(folders, (100, 110), strict=True):
            measured(folder, sections=[fid], mse=(0.5, 0.1), bce=(bce, 1), reconstruction=(bce, 1), psnr=(bce, 2))
        compare(folders, tmp_path / "out")
        text = (tmp_path / "out" / "table.md").read_text()
        assert text.startswith("| run | model | bce ↓ |\n")
        assert "Equal to bce, and left out: reconstruction, psnr." in text
        assert "The same in all rows, and left out: mse 0.5 ± 0.1, model prior: fid 3, " in text
        compare(folders, tmp_path / "out", "fid, ln p(x), fitted prior,bce")
        header = (tmp_path / "out" / "table.md").read_text().splitlines()[0]
        assert header == "| run | model | model prior: fid ↓ | ln p(x) ≥, fitted prior | bce ↓ |"
        with pytest.raises(ConfigError, match="--columns: no run has 'ssim'; there are mse, bce, "):
            compare(folders, tmp_path / "out", "mse,ssim")


class TestPage:
    def test_everything_is_there(self, runs, tmp_path, monkeypatch):
        drawn = []
        real = charts.curves
        monkeypatch.setattr(charts, "curves", lambda panel: drawn.append(panel) or real(panel))
        names = ("EVAE", "GaussianVAE", "WAE")
        page = Page(compare([runs / name for name in names], tmp_path) / "comparison.html")
        alts = [image["alt"] for image in page.images]
        assert alts[0] == "8 hold-out images"
        assert alts[1:4] == [f"reconstructions of the same images by {name}" for name in names]
        results = [json.loads((runs / name / "evaluation.json").read_text())["metrics"] for name in names]
        rates = [result[name] for result, name in zip(results, ("penalty", "kl", "mmd"), strict=True)]
        losses, plane = drawn
        assert [curve.name for curve in plane.curves] == [
            "EVAE (penalty: not a KL)",
            "GaussianVAE (KL)",
            "WAE (mmd: not a KL)",
        ]
        assert [curve.style for curve in plane.curves] == ["^", "o", "^"]
        places = [(rate, result["reconstruction"]) for rate, result in zip(rates, results, strict=True)]
        assert [curve.points for curve in plane.curves] == [[place] for place in places]
        assert [curve.name for curve in losses.curves] == ["EVAE", "", "GaussianVAE", "", "WAE", ""]
        assert all(len(curve.points) == 1 for curve in losses.curves)
        assert f"EVAE: penalty {rates[0]:.4g}, reconstruction" in alts[-1]

    def test_validation_losses_are_labelled(self, runs, blobs, tmp_path, monkeypatch):
        drawn = []
        real = charts.curves
        monkeypatch.setattr(charts, "curves", lambda panel: drawn.append(panel) or real(panel))
        options = {"epochs": 2, "batch_size": 16, "image_size": 16, "accelerator": "cpu", "validation": 0.25}
        validated = train(blobs, tmp_path / "mine", partial(EVAE, latent_dim=3), **options)
        evaluate(validated, show=False)
        page = Page(compare([runs / "WAE", validated], tmp_path / "out") / "comparison.html")
        assert [curve.name for curve in drawn[0].curves] == ["WAE", "", "mine (validation)", ""]
        assert [len(curve.points) for curve in drawn[0].curves] == [1, 1, 2, 2]
        assert "on validation data where the legend says so" in page.text

    @pytest.mark.parametrize("changes", [{"images": "0" * 32}, {"split": "train"}, {"latents": "mean"}], ids=str)
    def test_runs_evaluated_differently_are_not_ranked(self, copied, tmp_path, changes, capsys, undrawn):
        a = measured(copied / "EVAE", bce=(100, 1))
        b = change(measured(copied / "GaussianVAE", bce=(110, 1)), **changes)
        page = Page(compare([a, b], tmp_path / "out") / "comparison.html")
        assert page.bold == []
        assert page.text.count("Nothing is marked as best, because the runs were evaluated differently") == 1
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
        for run, values, count in (("EVAE", (10.0, 90.0), 16), ("GaussianVAE", (20.0, 30.0), 99)):
            kinds = zip(("reconstructions", "model prior"), values, strict=True)
            numbers = tuple(number(f"{kind}: fid", value, 0.5) for kind, value in kinds)
            section = Section("distances", "", numbers, {"features": "inception", "model prior: count": count})
            measured(copied / run, sections=[section], bce=(100, 99))
        page = Page(compare([copied / "EVAE", copied / "GaussianVAE"], tmp_path / "out") / "comparison.html")
        assert "reconstructions: fid" in page.text
        assert page.bold == ["10.0 ± 0.5"]
        reason = "the runs were measured with different settings (model prior: count)"
        assert f"Not ranked: model prior: fid; {reason}." in page.text

    def test_the_same_images_are_paired(self, copied, tmp_path, undrawn):
        """A difference far below the standard errors of the means, but the same for all images."""
        images = np.random.default_rng(0).normal(100, 30, 16)
        for run, more in (("EVAE", 0), ("GaussianVAE", np.linspace(0.9, 1.1, 16)), ("WAE", 5)):
            values = images + more
            measured(copied / run, {"bce": values}, bce=(values.mean(), values.std() / 4))
        folders = [copied / name for name in ("EVAE", "GaussianVAE", "WAE")]
        page = Page(compare(folders, tmp_path / "out") / "comparison.html")
        assert len(page.bold) == 1
        assert "Two-sided tests: paired t-test over images (bce); Holm's correction over all of these" in page.text
        (copied / "WAE" / "evaluation.safetensors").unlink()
        page = Page(compare(folders, tmp_path / "out") / "comparison.html")
        assert page.bold == []
        assert "paired t-test over images and z-test with combined standard errors (bce)" in page.text

    def test_what_evaluate_leaves_is_paired(self, runs, tmp_path, undrawn):
        page = Page(compare([runs / "EVAE", runs / "GaussianVAE"], tmp_path) / "comparison.html")
        paired = re.search(r"paired t-test over images \((.*?)\)", page.text)[1].split(", ")
        assert {"bce", "mse", "psnr", "ssim", "sharpness"} <= set(paired)
        assert "sharpness ≈" in page.text

    def test_other_likelihoods_have_other_units(self, copied, tmp_path, undrawn):
        for name, value in (("EVAE", 100), ("GaussianVAE", 200)):
            measured(copied / name, reconstruction=(value + 1, 1), bce=(value, 1))
        config = json.loads((copied / "EVAE" / "config.json").read_text())
        (copied / "EVAE" / "config.json").write_text(json.dumps(config | {"likelihood": "continuous_bernoulli"}))
        page = Page(compare([copied / "EVAE", copied / "GaussianVAE"], tmp_path / "out") / "comparison.html")
        assert page.bold == ["100 ± 1"]  # the bce
        assert "Not ranked: reconstruction; the models have different likelihoods p(x|z)." in page.text

    def test_names_of_every_kind(self, copied, tmp_path):
        names = ["_a$x_{$", "b<script>&\"'|é漢\n", "x" * 120]
        folders = [
            (copied / old).rename(copied / new) for old, new in zip(("EVAE", "GaussianVAE", "WAE"), names, strict=True)
        ]
        page = Page(compare(folders, tmp_path / "out") / "comparison.html")
        for name in names:
            assert name.strip() in page.text

    def test_the_callers_random_numbers_are_left_alone(self, runs, tmp_path, undrawn):
        before = torch.get_rng_state()
        compare([runs / "EVAE", runs / "WAE"], tmp_path, seed=1)
        assert torch.equal(torch.get_rng_state(), before)

    def test_runs_of_one_name(self, copied, tmp_path, undrawn):
        twin = shutil.copytree(copied / "EVAE", tmp_path / "b" / "EVAE")
        page = Page(compare([copied / "EVAE", twin], tmp_path / "out") / "comparison.html")
        assert "runs/EVAE" in page.text
        assert "b/EVAE" in page.text

    def test_what_is_missing_is_left_out(self, copied, tmp_path):
        for name in ("EVAE", "WAE"):
            (copied / name / "metrics.jsonl").unlink()
            change(copied / name, sections={})
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
        with pytest.raises(RunError, match="nowhere is not a run folder: it does not exist"):
            compare([copied / "EVAE", tmp_path / "nowhere"])
        (copied / "WAE" / "evaluation.json").unlink()
        with pytest.raises(RunError, match=r"WAE has not been evaluated; evae evaluate .*WAE does that$"):
            compare([copied / "EVAE", copied / "WAE"])
        (copied / "WAE" / "evaluation.json").write_text("{")
        with pytest.raises(RunError, match=r"evaluation\.json is damaged"):
            compare([copied / "EVAE", copied / "WAE"])

    def test_output_that_cannot_be_written(self, runs, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(RunError, match="file is no folder; name a folder"):
            compare([runs / "EVAE", runs / "WAE"], tmp_path / "file")


class TestSeeds:
    """Runs that differ in their seed alone are one row."""

    @pytest.fixture
    def seeds(self, copied):
        """Three runs of an EVAE and two of a WAE, with the errors that a test gives them."""

        def make(**errors):
            folders = []
            for family, values in errors.items():
                for seed, value in enumerate(values):
                    folders.append(shutil.copytree(copied / family, copied / f"{family.lower()}-seed{seed}"))
                    path = folders[-1] / "config.yaml"
                    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"seed": seed, "out": "x"}))
                    measured(folders[-1], bce=(value, 9))
            return folders

        return make

    def test_mean_and_deviation(self, seeds, tmp_path, undrawn):
        folders = seeds(EVAE=[1, 1.2, 1.1], WAE=[2, 2.1])
        page = Page(compare(folders, tmp_path / "out") / "comparison.html")
        table, *notes = (tmp_path / "out" / "table.md").read_text().split("\n\n")
        assert table.splitlines()[2:] == ["| evae | EVAE | 3 | **1.10 ± 0.10** |", "| wae | WAE | 2 | 2.050 ± 0.071 |"]
        assert notes[0].startswith("±: standard deviation over seeds where a row has several")
        assert "Welch's t-test over seeds (bce)" in notes[2]
        assert page.bold == ["1.10 ± 0.10"]
        lines = list(csv.DictReader((tmp_path / "out" / "table.csv").read_text().splitlines()))
        assert [(line["run"], line["row"], float(line["bce"])) for line in lines[:2]] == [
            ("evae-seed0", "evae", 1),
            ("evae-seed1", "evae", 1.2),
        ]
        assert len(lines) == 5

    def test_one_seed_against_several(self, seeds, copied, tmp_path, undrawn):
        page = Page(
            compare([*seeds(EVAE=[1, 1.2]), measured(copied / "WAE", bce=(5, 0.1))], tmp_path) / "comparison.html"
        )
        assert page.bold == []  # without values per image, one run says nothing of other seeds

    def test_a_metric_that_some_seeds_lack(self, seeds, tmp_path, undrawn):
        """It is in table.csv alone."""
        folders = seeds(EVAE=[1, 1.2])
        measured(folders[0], bce=(1, 9), mse=(3, 1))
        compare(folders, tmp_path / "out")
        assert "mse" not in (tmp_path / "out" / "table.md").read_text()
        assert "mse" in (tmp_path / "out" / "table.csv").read_text()

    def test_copies_are_no_seeds(self, seeds, tmp_path, undrawn):
        (first, second) = seeds(EVAE=[1, 1.2])
        shutil.copy(first / "config.yaml", second / "config.yaml")
        compare([first, second], tmp_path / "out")
        assert "| evae-seed0 | EVAE | 1 ± 9 |" in (tmp_path / "out" / "table.md").read_text()

    def test_other_settings_or_images_are_other_rows(self, seeds, tmp_path, undrawn):
        first, second, third = seeds(EVAE=[1, 1.2, 1.4])
        config = yaml.safe_load((second / "config.yaml").read_text())
        (second / "config.yaml").write_text(yaml.safe_dump(config | {"epochs": 9}))
        change(third, latents="mean")
        compare([first, second, third], tmp_path / "out")
        assert "seeds" not in (tmp_path / "out" / "table.md").read_text()

    def test_names(self, seeds, copied, tmp_path, undrawn):
        """What is common is not taken where it is another run's name."""
        folders = [*seeds(EVAE=[1, 1.2]), (copied / "WAE").rename(copied / "evae")]
        compare(folders, tmp_path / "out")
        assert "| evae-seed0, evae-seed1 | EVAE | 2 |" in (tmp_path / "out" / "table.md").read_text()


def test_a_legend_has_every_named_curve(monkeypatch):
    monkeypatch.setattr(charts, "png", lambda figure: figure)
    curves = [
        charts.Curve("_a$x_{$", [(1, 1)], 0, "o"),
        charts.Curve("", [(1, 2), (2, 3)]),
        charts.Curve("b", [(2, 1)]),
    ]
    figure = charts.curves(charts.Panel(curves, "x"), charts.Panel(curves[2:], "y"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [r" _a\$x_{\$", "b"]


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
