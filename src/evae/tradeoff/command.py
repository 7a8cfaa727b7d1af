"""evae tradeoff: rate, distortion and sharpness of several models on the user's own images."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from evae import checks
from evae.benchmark.cell import folder_of
from evae.benchmark.cells import Cell, cells_of
from evae.benchmark.command import check_failures, check_folder, compute_cells
from evae.benchmark.spec import read_spec
from evae.console import Console, console
from evae.data.decode import Channels
from evae.data.sources import find_source
from evae.errors import ConfigError, DataError, RunError
from evae.files import write_atomically
from evae.outputs import page_mark
from evae.reporting.charts import Curve as Line
from evae.reporting.charts import Panel, Picture
from evae.reporting.charts import curves as drawn
from evae.reporting.pages import render
from evae.reporting.tables import Cell as Text
from evae.reporting.tables import Grid, markdown, print_grid
from evae.rounding import with_error
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, read_evaluation
from evae.tradeoff.advice import advice, compared
from evae.tradeoff.curves import Curve, Estimate, curves_of
from evae.tradeoff.spec import CURVES, spec_text

_STEM = "tradeoff"
_FILES = tuple(f"{_STEM}{suffix}" for suffix in (".html", ".md", ".csv", ".png"))
_HEADER = ("curve", "setting", "rate", "of the prior", "distortion", "rate + distortion", "sharpness ≈")


def tradeoff(
    data: str | None = None,
    out: Path = Path("tradeoff"),
    curves: str = "beta,support-length,weight",
    epochs: int = 20,
    latent_dim: int = 64,
    batch_size: int = 100,
    image_size: int | None = None,
    channels: Channels = "auto",
    seeds: int = 1,
    spec: Path | None = None,
    workers: int = 1,
    retry: bool = False,
    trust_spec: bool = False,
    overwrite: bool = False,
) -> Path:
    """Show what sharp reconstructions cost: curves of rate, distortion and sharpness, on your own images.

    Each point is a model that is trained and measured, a cell of a benchmark: what is finished is not computed again,
    and the same command continues after an interruption. The rate of an image is the KL of its posterior to the model's
    own prior or to a Gaussian fitted to the codes, whichever is less on average; both bound the information that codes
    have of images. Deterministic models have none.

    Args:
        data: the images, as for evae train.
        out: folder for tradeoff.html, .md, .csv and .png, for the spec and the cells.
        curves: hyperparameters to vary, with commas between: beta (BetaVAE), support-length and bandwidth (EVAE),
            weight (BoundedVAE) and kernels (BoundedVAE with other kernels).
        epochs: passes over the training images, for each point.
        latent_dim: latent dimensions of every model.
        batch_size: images per step.
        image_size: side in pixels that images are resized to; default: as for evae train.
        channels: of the images; as for evae train.
        seeds: runs of each point, over which means are taken.
        spec: a spec as for evae benchmark, whose grids of models are the curves, instead of data and the options
            above; tradeoff.yaml in the folder is the one to begin with.
        workers: points to compute at a time, each in a process.
        retry: also compute points again that failed for good.
        trust_spec: let the spec name code of your own, which is imported and run.
        overwrite: replace files of these names also where they are not of evae.

    Returns:
        The folder.

    Raises:
        UsageError: the spec cannot be understood, or some of its cells cannot work.
        ConfigError: neither data nor a spec, or both; an unknown curve; a setting that cannot work.
        RunError: the results cannot be written, or no point has a rate.
        InterruptedBenchmark: Ctrl-C or SIGTERM; all cells are saved.
        FailedCellsError: some cells failed.
    """
    out = Path(out)
    checks.whole_number("workers", workers, most=1024)
    numbers = {"epochs": epochs, "latent_dim": latent_dim, "batch_size": batch_size, "seeds": seeds}
    if image_size is not None:
        numbers["image_size"] = image_size
    own = {} if channels == "auto" else {"channels": checks.one_of("channels", channels, get_args(Channels))}
    text = _own_text(data, curves, numbers, own) if spec is None else None
    if spec is not None and data is not None:
        raise ConfigError("--spec names the data, too; leave --data out")
    if data is not None and find_source(data).numbers is not None:
        raise DataError(f"--data {data} has rows of numbers; evae tradeoff is for images")
    check_folder(out, _FILES, overwrite)
    path = out / f"{_STEM}.yaml" if spec is None else Path(spec)
    if text is not None:
        write_atomically(path, text)
    of = read_spec(path)
    cells = cells_of(of, trust_spec)
    compute_cells(of, cells, out, workers, retry)
    found, without = curves_of(_finished(cells, out))
    if not found:
        check_failures(cells, out)
        raise RunError(f"no point of {path} has a rate: a posterior with a density and fit_prior are needed for it")
    _write(out, of.content, found, without)
    check_failures(cells, out)
    return out


def _own_text(data: str | None, curves: str, numbers: Mapping[str, int], own: Mapping[str, Any]) -> str:
    if data is None:
        raise ConfigError("--data is missing: name the images as for evae train, or a --spec")
    chosen = list(dict.fromkeys(name.strip() for name in curves.split(",")))
    for name in chosen:
        checks.one_of("curves", name, CURVES)
    for option, value in numbers.items():
        checks.whole_number(option, value)
    return spec_text(data, chosen, **numbers, **own)


def _finished(cells: Sequence[Cell], out: Path) -> list[tuple[Cell, Evaluation]]:
    found = []
    for cell in cells:
        evaluation = read_evaluation(RunFolder(folder_of(out, cell).run), per_image=False)
        if evaluation is not None:
            found.append((cell, evaluation))
    return found


def _write(out: Path, spec: str, curves: Sequence[Curve], without: Sequence[str]) -> None:
    grid, sentences = _grid(curves), advice(curves)
    notes = [
        "Nats per image. ± is the standard error over images; of several seeds, the standard deviation over seeds. "
        f"Originals have a sharpness of {curves[0].points[0].originals:.4g}.",
        "Between points curves are straight lines, which lie above a convex curve: where points are far apart, a curve "
        "is better than its line.",
    ]
    notes += [f"{pair}." for pair in compared(curves)]
    notes += [f"Without a rate, as they have no density: {', '.join(without)}."] if without else []
    picture = _picture(curves)
    page = render(
        "tradeoff.html",
        generator=page_mark("benchmark"),
        picture=picture,
        grid=grid,
        sentences=sentences,
        notes=notes,
        spec=spec,
    )
    write_atomically(out / f"{_STEM}.html", page)  # first: it marks the others
    write_atomically(out / f"{_STEM}.png", picture.png)
    write_atomically(out / f"{_STEM}.md", markdown(grid, [*sentences, *notes]))
    write_atomically(out / f"{_STEM}.csv", _csv(curves))
    print_grid(grid)
    for sentence in sentences:
        Console().print(sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(f"{', '.join(_FILES[:-1])} and {_FILES[-1]} in {out}", soft_wrap=True)


def _picture(curves: Sequence[Curve]) -> Picture:
    """Distortion and sharpness against the rate, each point with its setting."""
    quantities = {"distortion": "distortion (nats per image)", "sharpness": "sharpness of reconstructions"}
    panels = []
    for quantity, title in quantities.items():
        lines = [
            Line(
                f"{curve.name} ({curve.parameter})" if curve.parameter else curve.name,
                [(point.rate.value, getattr(point, quantity).value) for point in curve.points],
                i,
                labels=[point.setting for point in curve.points],
            )
            for i, curve in enumerate(curves)
        ]
        panels.append(Panel(lines, title, "rate (nats per image)"))
    return drawn(*panels)


def _grid(curves: Sequence[Curve]) -> Grid:
    rows = [
        [
            Text(curve.name),
            Text(f"{curve.parameter} {point.setting}".strip()),
            Text(_shown(point.rate)),
            Text(point.prior),
            Text(_shown(point.distortion)),
            Text(f"{point.bound:.1f}"),
            Text(_shown(point.sharpness)),
        ]
        for curve in curves
        for point in curve.points
    ]
    return Grid(_HEADER, rows, words=2)


def _shown(estimate: Estimate) -> str:
    return with_error(estimate.value, estimate.error)


def _csv(curves: Sequence[Curve]) -> str:
    """Every point, unrounded."""
    writer = csv.writer(file := io.StringIO(), lineterminator="\n")
    names = [n for quantity in ("rate", "distortion", "sharpness") for n in (quantity, f"{quantity}_error")]
    writer.writerow(["curve", "parameter", "setting", "prior", *names])
    for curve in curves:
        for p in curve.points:
            numbers = [n for e in (p.rate, p.distortion, p.sharpness) for n in (e.value, e.error)]
            writer.writerow([curve.name, curve.parameter, p.setting, p.prior, *numbers])
    return file.getvalue()
