"""Runs side by side: a table in four formats, and a page with reconstructions, losses and rates against distortions."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from evae import checks
from evae.console import console
from evae.errors import ConfigError, RunError
from evae.files import write_atomically
from evae.metrics.evaluate import shown
from evae.numerics import resolve_device
from evae.report import charts, pages
from evae.report.charts import Curve, Point
from evae.report.exploration import originals
from evae.report.pages import Html
from evae.report.ranking import best, disagreement, incomparable
from evae.report.tables import Cell, Grid, latex, markdown
from evae.runs import RunFolder
from evae.runs.evaluation import (
    Numbers,
    epochs,
    numbers,
    points,
    read_evaluation,
)
from evae.runs.images import own_images

_SHOWN = 8  # images
_MOST_COLUMNS = 7  # of a table on the page, beside the run's name
_KL = ("kl", "monte_carlo_kl")
_RATES = (*_KL, "penalty", "mmd")


@dataclass(frozen=True)
class _Run:
    """What is compared of a run; ``fingerprint`` is that of its own images, ``size`` what they were brought to."""

    name: str
    model: str
    pixels: str
    result: dict[str, Any]
    numbers: Numbers
    epochs: list[dict[str, Any]]
    fingerprint: str
    size: str
    real: Tensor
    rebuilt: Tensor


def compare(run_folders: list[Path], out: Path | None = None, device: str = "cpu", seed: int = 0) -> Path:
    """Compare evaluated runs: print a table, and write it with a page of figures into a folder.

    A number is marked as the best of its column where it is better than the second by more than 1.96 combined standard
    errors, and all runs were evaluated on the same images in the same way.

    Args:
        run_folders: the folders of two or more trained runs, each measured by evae evaluate.
        out: folder for table.md, table.csv, table.tex and comparison.html; default: comparison.
        device: where to compute, e.g. cpu or cuda.
        seed: of the choice of images that are shown.

    Returns:
        The folder.

    Raises:
        ConfigError: fewer than two runs, or one of them twice.
        RunError: a folder is no run or has no evaluation, or the output cannot be written.
        DataError: a run's images are not there any more.
    """
    folders = [Path(folder) for folder in run_folders]
    results = dict(zip(_names(folders), map(_evaluation, folders), strict=True))
    checks.seed(seed)
    runs = [
        _load(name, folder, result, device, seed)
        for (name, result), folder in zip(results.items(), folders, strict=True)
    ]
    notes, grid = _ranked(runs)
    folder = Path("comparison") if out is None else Path(out)
    write_atomically(folder / "table.md", markdown(grid))
    write_atomically(folder / "table.csv", _csv(runs))
    write_atomically(folder / "table.tex", latex(grid))
    write_atomically(folder / "comparison.html", pages.page("Comparison of runs", _content(runs, notes, grid)))
    Console().print(_upright(grid))
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(f"table.md, table.csv, table.tex and comparison.html in {folder}", soft_wrap=True)
    return folder


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the folders' paths, as many as tell them apart."""
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two runs or more, not {len(folders)}")
    paths = [folder.resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ConfigError(f"{folders[i]} is named twice")
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return [name.encode(errors="replace").decode() for name in names]  # not all names of folders are text


def _evaluation(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise RunError(f"{folder} is no run folder: it does not exist")
    result = read_evaluation(folder)
    if result is None:
        raise RunError(f"{folder} has not been evaluated; evae evaluate {folder} does that")
    return result


def _load(name: str, folder: Path, result: dict[str, Any], device: str, seed: int) -> _Run:
    model = RunFolder(folder).model().to(resolve_device(device))
    store = own_images(RunFolder(folder))
    rows = np.random.default_rng(seed).choice(len(store.holdout), min(_SHOWN, len(store.holdout)), replace=False)
    real = originals(model, store.holdout, torch.from_numpy(np.sort(rows)))
    return _Run(
        name=name,
        model=type(model).__name__,
        pixels=type(model.pixels).__name__,
        result=result,
        numbers=numbers(result),
        epochs=epochs(folder),
        fingerprint=store.fingerprint,
        size=_size(store.transform),
        real=real.cpu(),
        rebuilt=model.reconstruct(real).cpu(),
    )


def _size(transform: Mapping[str, int | None]) -> str:
    crop = transform.get("crop")
    return f"{transform['size']} pixels" + (f" of the middle {crop}" if crop else "")


# The table ---------------------------------------------------------------------------------------------------


def _columns(runs: Sequence[_Run]) -> list[str]:
    """Metrics of the reconstructions first, those that only some runs have too."""
    metrics = [name for run in runs for name in run.result.get("metrics", {}) if name in run.numbers]
    return list(dict.fromkeys([*metrics, *(column for run in runs for column in run.numbers)]))


def _ranked(runs: Sequence[_Run]) -> tuple[list[str], Grid]:
    """The table with the best numbers marked, and sentences on what is not."""
    results = {run.name: {**run.result, "size": run.size} for run in runs}
    differently = disagreement(results)
    reasons = {} if differently else incomparable(results, {run.name: run.pixels for run in runs})
    rows = [[Cell(run.name), Cell(run.model)] for run in runs]
    for column in _columns(runs):
        ranked = not differently and not any(_belongs(column, start) for start in reasons)
        winner = best(column, [run.numbers for run in runs]) if ranked else None
        for i, run in enumerate(runs):
            text = shown(*run.numbers[column]) if column in run.numbers else ""
            rows[i].append(Cell(text, bold=i == winner))
    notes = [differently] if differently else []
    notes += [f"{start.rstrip(': ')} is not ranked: {reason}." for start, reason in reasons.items()]
    return notes, Grid(["run", "model", *_columns(runs)], rows, words=2)


def _belongs(column: str, start: str) -> bool:
    """Whether a column is the one named, or one of those after "reconstructions: "."""
    return column.startswith(start) if start.endswith(": ") else column == start


def _parts(grid: Grid) -> list[Grid]:
    """The table as narrower ones: columns of one kind, and not many of them."""
    kinds = groupby(range(grid.words, len(grid.header)), key=lambda i: grid.header[i].rpartition(": ")[0])
    columns = [part for _, kind in kinds for part in _evenly(list(kind))]
    return [
        Grid([grid.header[i] for i in (0, *part)], [[row[i] for i in (0, *part)] for row in grid.rows])
        for part in columns
    ]


def _evenly(columns: list[int]) -> list[list[int]]:
    parts = -(-len(columns) // _MOST_COLUMNS)
    return [part.tolist() for part in np.array_split(columns, parts)]


def _upright(grid: Grid) -> Table:
    """The table for a terminal, which has room for runs beside each other rather than for metrics."""
    table = Table()
    for i, row in enumerate(zip(*grid.rows, strict=True)):
        if i == 0:
            table.add_column("", overflow="fold")
            for cell in row:
                table.add_column(Text(cell.text), justify="right", overflow="fold")
        else:
            table.add_row(Text(grid.header[i]), *(Text(cell.text, "bold" if cell.bold else "") for cell in row))
    return table


def _csv(runs: Sequence[_Run]) -> str:
    """Unrounded, each number followed by its standard error."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = _columns(runs)
    writer.writerow(["run", "model", *(name for column in columns for name in (column, f"{column} standard error"))])
    for run in runs:
        pairs = [run.numbers.get(column, (None, None)) for column in columns]
        writer.writerow([run.name, run.model, *(number for pair in pairs for number in pair)])
    return file.getvalue()


# The page ----------------------------------------------------------------------------------------------------


def _content(runs: Sequence[_Run], notes: Sequence[str], grid: Grid) -> list[Html]:
    legend = (
        "± is the standard error over images, not over repeated training. Bold: better than the second of its column "
        "by more than 1.96 combined standard errors; other columns have no number in bold, because the best cannot be "
        "told from the second or because they are no matter of better or worse."
    )
    told = ", ".join(f"{run.name} ({run.model})" for run in runs)
    return [
        pages.paragraph(f"{told}: {_evaluated_on(runs)}"),
        pages.section(
            "Measurements",
            *map(pages.paragraph, notes),
            *(pages.table(part, f"measurements: {', '.join(part.header[1:])}") for part in _parts(grid)),
            pages.paragraph(legend),
        ),
        _reconstructions(runs),
        pages.section("Training and rate", pages.charts(*_losses(runs), *_rates(runs)), *_about_charts(runs)),
    ]


def _evaluated_on(runs: Sequence[_Run]) -> str:
    sources = dict.fromkeys(f"{run.result.get('count', '?')} images of {run.result.get('data', '?')}" for run in runs)
    return f"{len(runs)} runs, evaluated on {' and on '.join(sources)}."


def _reconstructions(runs: Sequence[_Run]) -> Html:
    content = [pages.paragraph("Hold-out images, and what is decoded from the posterior's centre by each run.")]
    by_images: dict[tuple[str, str], list[_Run]] = {}
    for run in runs:
        by_images.setdefault((run.fingerprint, run.size), []).append(run)
    for same in by_images.values():
        figures = [pages.figure(charts.images(same[0].real, 1), f"{len(same[0].real)} hold-out images", "originals")]
        figures += [
            pages.figure(charts.images(run.rebuilt, 1), f"reconstructions of the same images by {run.name}", run.name)
            for run in same
        ]
        content.append(pages.columns(figures, "reconstructions"))
    return pages.section("Reconstructions", *content)


def _losses(runs: Sequence[_Run]) -> list[Html]:
    curves = []
    for i, run in enumerate(runs):
        curves.append(Curve(run.name, points(run.epochs, "holdout_loss"), colour=i))
        curves.append(Curve("", points(run.epochs, "loss"), colour=i, dashed=True))
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return []
    picture = charts.curves(curves, "loss", "epoch", "")
    return [pages.figure(picture, f"loss by epoch of {', '.join(run.name for run in runs)}")]


def _rates(runs: Sequence[_Run]) -> list[Html]:
    placed = []
    for run in runs:
        rate = next((name for name in _RATES if name in run.numbers), None)
        if rate is not None and "reconstruction" in run.numbers:
            x, y = run.numbers[rate][0], run.numbers["reconstruction"][0]
            placed.append(Point(run.name, x, y, triangular=rate not in _KL))
    if not placed:
        return []
    kinds = ("KL, in nats", "penalty or MMD: not a KL")
    picture = charts.plane(placed, "rate", "reconstruction, nats per image", kinds)
    told = "; ".join(f"{p.name}: rate {p.x:.4g}, reconstruction {p.y:.4g}" for p in placed)
    return [pages.figure(picture, f"rate and distortion of each run: {told}")]


def _about_charts(runs: Sequence[_Run]) -> list[Html]:
    return [
        pages.paragraph(
            "Losses: solid on hold-out images, dashed in training; those of different objectives are different "
            "quantities. Rate and distortion: a KL is the rate of a code for the latents; a penalty or an MMD is none, "
            "and its place along the axis says nothing beside a KL's."
        )
    ]
