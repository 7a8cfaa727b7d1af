"""Comparison of runs: a table in four formats, and a page with reconstructions, losses, rates and distortions."""

import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from evae.console import console
from evae.errors import ConfigError, RunError
from evae.files import utf8, write_atomically
from evae.metrics.legend import legend
from evae.numerics import resolve_device, seeded
from evae.outputs import check_output_folder, data_of, page_mark
from evae.reporting.charts import Curve, Panel, points
from evae.reporting.exploration import originals
from evae.reporting.pages import data_name, render
from evae.reporting.ranking import LEVEL, Result, Verdict, basis, best, disagreement, incomparable, significant
from evae.reporting.tables import Cell, Grid, latex, markdown, print_grid
from evae.rounding import counted
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, current_evaluation
from evae.runs.images import own_images

_SHOWN = 8  # images
_FILES = ("table.md", "table.csv", "table.tex", "comparison.html")
_RATES = {"kl": "KL", "monte_carlo_kl": "KL", "penalty": "penalty: not a KL", "mmd": "mmd: not a KL"}

T = TypeVar("T")

_Results = Sequence[Result | None]  # of a metric, by row


@dataclass(frozen=True)
class _Run:
    """A run; ``shown_of`` is the fingerprint and the transform of its own images, of which ``real`` are some."""

    name: str
    folder: RunFolder
    likelihood: str
    evaluation: Evaluation
    shown_of: str
    real: Tensor
    rebuilt: Tensor
    is_row: bool = False


@dataclass(frozen=True)
class _Row:
    """A row of the table: a run, or runs that differ in their seed alone."""

    name: str
    runs: Sequence[_Run]

    def result(self, metric: str) -> Result | None:
        """Of a metric that all its runs have."""
        numbers = [n for n in (run.evaluation.number(metric) for run in self.runs) if n is not None]
        images = [v for v in (run.evaluation.per_image(metric) for run in self.runs) if v is not None]
        if len(numbers) < len(self.runs):
            return None
        return Result(numbers, np.mean(images, axis=0) if len(images) == len(numbers) else None)


def compare(
    run_folders: list[Path] | Path,
    out: Path | None = None,
    columns: str | None = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Compare evaluated runs in a table, printed and written with a page of figures into a folder.

    Runs that differ in their seed alone share a row: mean and standard deviation over seeds. A number is in bold where
    it is better than those of all other rows: tested over seeds where two rows have several, else by paired differences
    of the same images, else with standard errors; family-wise error rate 5 % (Holm).

    Args:
        run_folders: the folders of two or more trained runs, each evaluated by evae evaluate.
        out: folder for table.md, table.csv, table.tex and comparison.html; default: comparison.
        columns: metrics to show, as in bce,mse,fid; default: those in which the rows differ. table.csv has all.
        device: cpu, cuda or mps; auto: a GPU where there is one.
        seed: seed of the choice of images that are shown.
        overwrite: replace these files also where they are not a comparison by evae.

    Returns:
        The folder.

    Raises:
        ConfigError: fewer than two runs, or one of them twice; or no run has a metric of ``columns``.
        RunError: a folder is no run or has no evaluation, or the output cannot be written or would replace other files.
        DataError: a run's images are not there any more.
    """
    folders = [RunFolder(path) for path in ([run_folders] if isinstance(run_folders, str | Path) else run_folders)]
    names, evaluations = _names([folder.path for folder in folders]), [_evaluation(folder) for folder in folders]
    folder = Path("comparison") if out is None else Path(out)
    data = [path for run in folders for path in data_of(run)]
    check_output_folder(folder, _FILES, "comparison", overwrite, data)
    with seeded(seed):
        runs = [_load(*of_run, device, seed) for of_run in zip(names, folders, evaluations, strict=True)]
    rows = _rows(runs)
    grid, notes = _table(rows, columns)
    rates, rates_in_words = _rates(runs)
    images = (
        f"{counted(run.evaluation.count, run.evaluation.noun)} of {data_name(run.evaluation.data)}" for run in runs
    )
    sources = " and on ".join(dict.fromkeys(images))
    page = render(
        "comparison.html",
        generator=page_mark("comparison"),
        runs=runs,
        sources=sources,
        grid=grid.transposed(),
        notes=notes,
        on_same_images=list(_grouped((run.shown_of, run) for run in runs if not run.is_row).values()),
        losses=_losses(runs),
        rates=rates,
        rates_in_words=rates_in_words,
    )
    write_atomically(folder / "table.md", markdown(grid, notes))
    write_atomically(folder / "table.csv", _csv(rows))
    write_atomically(folder / "table.tex", latex(grid, notes, f"{len(runs)} runs, evaluated on {sources}."))
    write_atomically(folder / "comparison.html", page)
    print_grid(grid)
    for note in [*notes, f"table.md, table.csv, table.tex and comparison.html in {folder}"]:
        console.print(note, soft_wrap=True)
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart."""
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two runs or more, not {len(folders)}")
    paths = [folder.resolve() for folder in folders]
    if twice := [folder for i, folder in enumerate(folders) if paths[i] in paths[:i]]:
        raise ConfigError(f"{twice[0]} is named twice")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [utf8(name) for name in names]


def _evaluation(run: RunFolder) -> Evaluation:
    if not run.path.is_dir():
        raise RunError(f"{run} is not a run folder: it does not exist")
    if (evaluation := current_evaluation(run)) is None:
        raise RunError(f"{run} has not been evaluated; evae evaluate {run} does that")
    return evaluation


def _load(name: str, run: RunFolder, evaluation: Evaluation, device: str, seed: int) -> _Run:
    model = run.model().to(resolve_device(device))
    store = own_images(run)
    rows = np.random.default_rng(seed).choice(len(store.holdout), min(_SHOWN, len(store.holdout)), replace=False)
    real = originals(model, store.holdout, torch.from_numpy(np.sort(rows)))
    shown_of, likelihood = f"{store.fingerprint} {store.transform}", type(model.pixels).__name__
    return _Run(name, run, likelihood, evaluation, shown_of, real.cpu(), model.reconstruct(real).cpu(), model.is_row)


def _rows(runs: Sequence[_Run]) -> list[_Row]:
    """Runs whose configurations and images are equal but for distinct seeds, together; others alone."""

    configs = {run.name: run.folder.config() for run in runs}

    def alike(run: _Run) -> str:
        config = {key: value for key, value in configs[run.name].items() if key not in ("seed", "out")}
        return json.dumps([config, basis(run.evaluation)], sort_keys=True, default=str)

    rows: list[_Row] = []
    for group in _grouped((alike(run), run) for run in runs).values():
        if len(group) > 1 and len({configs[run.name].get("seed") for run in group}) == len(group):
            rows.append(_Row(_shared_name(group, {run.name for run in runs} | {row.name for row in rows}), group))
        else:
            rows += [_Row(run.name, [run]) for run in group]
    return rows


def _shared_name(runs: Sequence[_Run], taken: Collection[str]) -> str:
    """What the names of runs have in common before their seeds; all names where that is nothing or taken."""
    common = {re.sub(r"[\W_]*(seed|s)?[\W_]*\d*$", "", run.name) for run in runs}
    return common.pop() if len(common) == 1 and not common & {"", *taken} else ", ".join(run.name for run in runs)


def _grouped(pairs: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """The values of each key, in order."""
    groups: dict[str, list[T]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _metrics(rows: Sequence[_Row]) -> list[str]:
    """Of each section in turn, those that only some runs have too."""
    sections = [section for row in rows for run in row.runs for section in run.evaluation.sections.values()]
    numbers = _grouped((section.name, number.name) for section in sections for number in section.numbers)
    return list(dict.fromkeys(chain(*numbers.values())))


def _table(rows: Sequence[_Row], columns: str | None = None) -> tuple[Grid, list[str]]:
    """The table with the best numbers in bold, and the notes below it."""
    runs = [run for row in rows for run in row.runs]
    by_row = {metric: [row.result(metric) for row in rows] for metric in _metrics(rows)}
    measured: dict[str, _Results] = {metric: r for metric, r in by_row.items() if any(r)}
    if columns is None:
        results, left_out = _differing(measured)
    else:
        results, left_out = {metric: measured[metric] for metric in _chosen(columns, measured)}, []
    differently = disagreement({run.name: run.evaluation for run in runs})
    reasons = incomparable([run.evaluation for run in runs], [run.likelihood for run in runs])
    ranked = {metric: best(r) for metric, r in results.items() if not differently and metric not in reasons}
    verdicts = {metric: verdict for metric, verdict in ranked.items() if verdict is not None}
    winners = {metric: verdicts[metric].row for metric in significant(verdicts)}
    table = {"model": [Cell(row.runs[0].evaluation.model) for row in rows]}
    spread = "±: standard error over images, not over repeated training."
    if len(rows) < len(runs):
        table["seeds"] = [Cell(str(len(row.runs))) for row in rows]
        spread = "±: standard deviation over seeds where a row has several, else standard error over images."
    numbers = [next(x.numbers[0] for x in r if x is not None) for r in results.values()]
    for number, of_rows in zip(numbers, results.values(), strict=True):
        bold = winners.get(number.name)
        table[number.title] = [Cell(str(result or ""), bold == i) for i, result in enumerate(of_rows)]
    cells = [[Cell(row.name), *rest] for row, *rest in zip(rows, *table.values(), strict=True)]
    about = [spread, legend(numbers), *left_out]
    how = [differently] if differently else _how_ranked(verdicts, reasons)
    return Grid(["run", *table], cells, words=2), [note for note in about if note] + how


def _chosen(columns: str, metrics: Iterable[str]) -> list[str]:
    """The metrics that are named, in this order; "fid" stands for all whose names end with ": fid".

    Raises:
        ConfigError: there is none of a name.
    """
    known, parts = list(metrics), columns.split(",")
    chosen: list[str] = []
    while parts:
        for count in range(len(parts), 0, -1):  # names may have commas of their own
            name = ",".join(parts[:count]).strip()
            if found := [m for m in known if name in (m, m.rpartition(": ")[2], m.replace(" ≥", ""))]:
                break
        else:
            raise ConfigError(f"--columns: no run has {parts[0].strip()!r}; there are {', '.join(known)}")
        chosen, parts = [*chosen, *found], parts[count:]
    return list(dict.fromkeys(chosen))


def _differing(results: Mapping[str, _Results]) -> tuple[dict[str, _Results], list[str]]:
    """The metrics in which rows differ, without those that repeat an earlier one; and notes about the others."""
    values = {m: [math.nan if x is None else float(x.seeds.mean()) for x in r] for m, r in results.items()}
    constant = [m for m, v in values.items() if len(v) > 1 and np.allclose(v, v[0], rtol=1e-6, atol=0)]
    kept: dict[str, _Results] = {}
    repeated: dict[str, list[str]] = {}
    for metric in (metric for metric in results if metric not in constant):
        same = [m for m in kept if np.allclose(values[m], values[metric], rtol=1e-6, atol=0, equal_nan=True)]
        if same:
            repeated.setdefault(same[0], []).append(metric)
        else:
            kept[metric] = results[metric]
    notes = [f"Equal to {metric}, and left out: {', '.join(others)}." for metric, others in repeated.items()]
    if constant:
        told = ", ".join(f"{metric} {results[metric][0]}" for metric in constant)
        notes.append(f"The same in all rows, and left out: {told}.")
    return kept, notes


def _how_ranked(verdicts: Mapping[str, Verdict], reasons: Mapping[str, str]) -> list[str]:
    """Which test was used for which metric, and which metrics are not ranked."""
    notes = []
    tests = _grouped((" and ".join(verdict.tests), metric) for metric, verdict in verdicts.items())
    if tests:
        told = "; ".join(f"{test} ({', '.join(metrics)})" for test, metrics in tests.items())
        notes.append(
            f"Bold: better than every other row. Two-sided tests: {told}; Holm's correction over all of these, "
            f"family-wise error rate {LEVEL:.0%}. Tests over images compare these weights, not other seeds."
        )
    unranked = _grouped((reason, metric) for metric, reason in reasons.items())
    return notes + [f"Not ranked: {', '.join(metrics)}; {reason}." for reason, metrics in unranked.items()]


def _csv(rows: Sequence[_Row]) -> str:
    """A line for each run: unrounded numbers, each followed by its standard error."""
    metrics = _metrics(rows)
    names = ["run", "row", "model", *(name for m in metrics for name in (m, f"{m} standard error"))]
    writer = csv.DictWriter(file := io.StringIO(), names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        for run in row.runs:
            about = {"run": run.name, "row": row.name, "model": run.evaluation.model}
            numbers = [number for number in map(run.evaluation.number, metrics) if number is not None]
            errors = {f"{number.name} standard error": number.error for number in numbers}
            writer.writerow(about | {number.name: number.value for number in numbers} | errors)
    return file.getvalue()


def _losses(runs: Sequence[_Run]) -> Panel:
    """By epoch, on hold-out or validation images, whichever were evaluated in training; dashed on training images."""
    curves = []
    for i, run in enumerate(runs):
        lines = run.folder.epochs()
        curves.append(Curve(run.name, points(lines, "holdout_loss"), i))
        curves.append(Curve(f"{run.name} (validation)", points(lines, "validation_loss"), i))
        curves.append(Curve("", points(lines, "loss"), i, "--"))
    styles = {"-": "hold-out", "--": "training"}
    return Panel([curve for curve in curves if curve.points], "loss", ylabel="nats per image", styles=styles)


def _rates(runs: Sequence[_Run]) -> tuple[Panel, str]:
    """Reconstruction over KL, penalty or MMD, circles for a KL; and the same in words."""
    places, told = [], []
    for i, run in enumerate(runs):
        numbers = {number.name: number.value for number in run.evaluation.numbers}
        rate = next((name for name in _RATES if name in numbers), None)
        if rate is not None and "reconstruction" in numbers:
            at = numbers[rate], numbers["reconstruction"]
            places.append(Curve(f"{run.name} ({_RATES[rate]})", [at], i, "o" if _RATES[rate] == "KL" else "^"))
            told.append(f"{run.name}: {rate} {at[0]:.4g}, reconstruction {at[1]:.4g}")
    return Panel(places, "rate and distortion", "KL, penalty or MMD", "reconstruction, nats per image"), "; ".join(told)
