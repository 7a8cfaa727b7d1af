"""Tables from folders alone: means to the digit, what is marked, published figures, verdicts and claims."""

import csv
import io
import math
import time

import numpy as np
import pytest

from evae.benchmark import benchmark
from evae.benchmark.cell import folder_of
from evae.benchmark.cells import cells_of
from evae.benchmark.spec import SAME, Published, read_spec
from evae.benchmark.table import BenchmarkTable
from evae.benchmark.verdicts import sign_test, verdict
from evae.reporting.ranking import Result
from tests.reporting.records import number

SEEDS = ("grid: [0, 1]", "grid: [0, 1, 2]")
MODELS = (
    "{class_path: EVAE, init_args: {latent_dim: {grid: [2, 3]}}}",
    "{grid: [{class_path: EVAE, init_args: {latent_dim: {grid: [2, 3]}}}, "
    "{class_path: GaussianVAE, init_args: {latent_dim: {grid: [2, 3]}}}]}",
)
PAIRED = ("rows: model.latent_dim", "rows: model.latent_dim, by: model, compare: model")


def arranged(path, out):
    spec = read_spec(path)
    grid, notes = BenchmarkTable(spec, cells_of(spec), out).grid()
    return grid, [[cell.text for cell in row] for row in grid.rows], notes


def seed_of(cell):
    return cell.train["seed"]


def latents_of(cell):
    return cell.train["model"]["init_args"]["latent_dim"]


def test_means_and_deviations_over_seeds(spec, computed):
    values = {(2, 0): 10.0, (2, 1): 12.0, (2, 2): 14.0, (3, 0): 20.0, (3, 1): 20.5}
    path = spec(SEEDS)
    out = computed(path, lambda c: {"bce": v} if (v := values.get((latents_of(c), seed_of(c)))) else None)
    grid, rows, notes = arranged(path, out)
    assert grid.header == ["model.latent_dim", "bce ↓", "mse", "sharpness"]
    assert rows == [["2", "12.0 ± 2.0 (3)", "", ""], ["3", "20.25 ± 0.35 (2 of 3)", "", ""]]
    assert grid.rows[0][1].bold
    assert "5 of 6 cells are finished." in notes
    assert "Not measured in any cell: mse, sharpness; the cells have bce." in notes


def test_every_file_and_unrounded_numbers(spec, computed, capsys):
    path = spec()
    out = computed(path, lambda c: {"bce": math.pi * (1 + seed_of(c)), "mse": 1e-7})
    benchmark(path, out, table=True)
    names = {f"{stem}.{suffix}" for stem in ("spec", "table") for suffix in ("md", "csv", "tex", "html")}
    assert names <= {p.name for p in out.iterdir()}
    lines = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [float(line["bce"]) for line in lines] == [math.pi, 2 * math.pi] * 2
    assert [line["model.latent_dim"] for line in lines] == ["2", "2", "3", "3"]
    assert "\\label{tab:spec}" in (out / "spec.tex").read_text()
    assert "4.7 ± 2.2 (2)" in capsys.readouterr().out


def test_the_best_is_marked_where_a_test_says_so(spec, computed):
    """Within each row, by Welch's test over seeds; with one seed by the same images."""
    noise = np.random.default_rng(0).normal(0, 1, (3, 16))
    better = {(2, "EVAE"): 10.0, (2, "GaussianVAE"): 20.0, (3, "EVAE"): 10.0, (3, "GaussianVAE"): 10.001}

    def values(cell):
        level = better[latents_of(cell), cell.value("model")] + noise[seed_of(cell), 0]
        return {"bce": (level, level + noise[seed_of(cell)] * (1 if cell.value("model") == "EVAE" else 1.01))}

    path = spec(SEEDS, MODELS, PAIRED, ("columns: [bce, mse, sharpness]", "columns: [bce]"))
    grid, _, notes = arranged(path, computed(path, values))
    assert [[cell.bold for cell in row] for row in grid.rows] == [[False, True, False], [False, False, False]]
    assert any(
        "every other model of the same model.latent_dim" in n and "Welch's t-test over seeds" in n for n in notes
    )
    one = spec(("grid: [0, 1]", "grid: [0]"), MODELS, PAIRED, ("[bce, mse, sharpness]", "[bce]"))
    grid, _, notes = arranged(one, computed(one, values))
    assert [cell.bold for cell in grid.rows[0]] == [False, True, False]
    assert any("paired t-test over images" in note for note in notes)


def test_nothing_is_marked_of_other_images(spec, computed):
    path = spec(MODELS, PAIRED)
    out = computed(path, lambda c: {"bce": 10.0 + seed_of(c)} if c.value("model") == "EVAE" else None)
    computed(path, lambda c: {"bce": 99.0 + seed_of(c)} if c.value("model") != "EVAE" else None, images="f" * 16)
    grid, _, notes = arranged(path, out)
    assert not any(cell.bold for row in grid.rows for cell in row)
    assert any(note.startswith("Nothing is marked as best") for note in notes)


def entry(**changes):
    return Published("fid", "a paper", "a protocol", {}, **{"same": list(SAME), "runs": 3} | changes)


def ours(*values):
    return Result([number("fid", value, 0.1) for value in values])


@pytest.mark.parametrize(
    ("result", "figure", "changes", "expected"),
    [
        (None, (10, 1), {}, ""),
        # 2 sqrt(1²/3 + 0.5²/3) = 1.2910
        (ours(9, 10, 11), (11.290, 0.5), {}, "reproduced"),
        (ours(9, 10, 11), (11.292, 0.5), {}, "not reproduced"),
        (ours(9, 10, 11), (8.710, 0.5), {}, "reproduced"),
        (ours(9, 10, 11), (11.292, 0.5), {"runs": 1}, "reproduced"),
        (ours(9, 10, 11), (11, 0.5), {"same": ["data", "metric"]}, "not comparable"),
        (ours(9, 10, 11), (10, None), {}, "not comparable"),
        (ours(10), (10, 0.5), {}, "not comparable"),
        (ours(10), (10.4, 0.5), {"tolerance": 0.05}, "reproduced"),
        (ours(10, 11), (10.0, None), {"tolerance": 0.05}, "reproduced"),
        (ours(10, 11.1), (10.0, None), {"tolerance": 0.05}, "not reproduced"),
    ],
)
def test_verdicts(result, figure, changes, expected):
    assert verdict(result, figure, entry(**changes)) == expected


def test_published_figures_stand_beside_ours(spec, computed):
    published = """published:
  - {metric: bce, source: A paper, protocol: 3 runs, runs: 3, same: [data, networks, epochs, features, metric],
     figures: {2: {EVAE: [10.2, 0.3], GaussianVAE: 19}}}
  - {metric: mse, source: Another, protocol: its own, same: [data], figures: {3: {EVAE: 1}}}
claims: [{metric: bce, better: lower, winner: EVAE, loser: GaussianVAE, published: 15 of 16}]
evaluate:"""
    path = spec(SEEDS, MODELS, PAIRED, ("evaluate:", published))
    out = computed(path, lambda c: {"bce": 9.0 + seed_of(c) + 10 * (c.value("model") != "EVAE"), "mse": 1.0})
    grid, rows, notes = arranged(path, out)
    named = [dict(zip(grid.header, row, strict=True)) for row in rows]
    assert named[0]["EVAE: bce ↓ published"] == "10.20 ± 0.30"
    assert named[0]["EVAE: bce ↓ verdict"] == "reproduced"
    assert named[0]["GaussianVAE: bce ↓ verdict"] == "not comparable"
    assert named[1]["EVAE: bce ↓ published"] == named[1]["EVAE: bce ↓ verdict"] == ""
    assert named[1]["EVAE: mse ↓ verdict"] == "not comparable"
    text = "\n".join(notes)
    assert "Published bce: A paper; 3 runs." in text
    assert "not known to be the published ones: networks, epochs, features, metric." in text
    assert (
        "bce is lower for EVAE than for GaussianVAE in 2 of 2 cells (one-sided sign test over cells, p = 0.25)" in text
    )


@pytest.mark.parametrize(
    ("pairs", "better", "expected"),
    [
        ([(1, 2)] * 15 + [(2, 1)], "lower", (15, 16, 17 / 2**16)),
        ([(1, 2)] * 15 + [(2, 1)], "higher", (1, 16, 1 - 1 / 2**16)),
        ([(1, 1), (2, 1), (math.nan, 1)], "higher", (1, 1, 0.5)),
        ([], "lower", (0, 0, 1)),
    ],
)
def test_sign_tests(pairs, better, expected):
    assert sign_test(pairs, better) == pytest.approx(expected)


def test_cells_of_an_older_version_are_kept_and_marked(spec, computed, cells):
    path = spec()
    out = computed(path, lambda c: {"bce": 1.0})
    first, second, *_ = (folder_of(out, cell) for cell in cells(path))
    record = first.path / "cell.json"
    record.write_text(record.read_text().replace('"evae": "', '"evae": "0.0.0-of-before-'))
    second.run.joinpath("evaluation.json").write_text('{"version": 2}')
    _, rows, notes = arranged(path, out)
    text = "\n".join(notes)
    assert "1 cell computed by evae 0.0.0-of-before-" in text
    assert "evaluation.json is damaged or of another version" in text
    assert [row[1].rpartition(" (")[2] for row in rows] == ["2)", "1 of 2)"]


@pytest.mark.slow
def test_a_thousand_cells_take_seconds(spec, computed):
    path = spec(("grid: [0, 1]", f"grid: {list(range(10))}"), ("grid: [2, 3]", f"grid: {list(range(1, 101))}"))
    out = computed(path, lambda c: {"bce": (1.0 * seed_of(c), np.ones(16)), "mse": 1.0, "sharpness": 1.0})
    start = time.perf_counter()
    benchmark(path, out, table=True)
    print(f"{time.perf_counter() - start:.2f} s")
    assert len((out / "table.md").read_text().splitlines()) > 100
