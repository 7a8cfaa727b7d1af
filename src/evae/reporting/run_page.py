"""The page of a run: configuration, measurements, training curves, reconstructions, samples and latents."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from evae.console import console
from evae.data import ImageSet
from evae.errors import RunError
from evae.files import write_atomically
from evae.models import VAE
from evae.numerics import resolve_device, seeded
from evae.reporting import charts, pages
from evae.reporting.exploration import Survey, by_error, interpolations, originals, survey, traversals
from evae.reporting.pages import Figure
from evae.reporting.tables import Cell, Grid
from evae.runs import RunFolder
from evae.runs.evaluation import Evaluation, Section, read_evaluation
from evae.runs.folder import CONFIG
from evae.runs.images import own_images

_SHOWN = 8  # images of a kind; pairs of them; latents
_STEPS = 9  # images of an interpolation or a traversal, including both ends


def report(
    run_folder: Path, out: Path | None = None, seed: int = 0, device: str = "auto", model: VAE | None = None
) -> Path:
    """Write an HTML report of a run: configuration, measurements, losses, reconstructions, samples and latents.

    The page is one file, which needs neither the network nor the run. Measurements are those of evae evaluate.

    Args:
        run_folder: the folder of a trained run.
        out: the page; default: report.html in the run folder.
        seed: seed of the samples, and of the choice of images for interpolations.
        device: where to compute: auto, cpu, cuda, ...
        model: the run's model, where it cannot be loaded because its class or networks cannot be imported.

    Returns:
        The page.

    Raises:
        RunError: the folder is no run, what is in it is damaged, or the page cannot be written.
        DataError: the run's images are not there any more.
    """
    run = RunFolder(run_folder)
    with seeded(seed):  # a new model draws its first weights
        model = (run.model() if model is None else model).to(resolve_device(device)).eval()
    config, evaluation = run.config(), read_evaluation(run)
    others = [read_evaluation(run, path.name) for path in sorted(run.path.glob("evaluation-*.json"))]
    with seeded(seed):
        samples = _samples(model)
    store = own_images(run)
    found = survey(model, store.holdout)
    page = pages.page(
        "run",
        title=f"{type(model).__name__} on {config['data']}",
        run=run,
        model=model,
        weights=sum(p.numel() for p in model.parameters()),
        store=store,
        found=found,
        quote=shlex.quote,
        spelled_out=spelled_out(run.path, config),
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True).rstrip(),
        evaluation=evaluation,
        others=others,
        numbers_grid=numbers_grid,
        curves=_training(run, model),
        reconstructions=_reconstructions(model, store.holdout, found),
        samples=samples,
        interpolations=_interpolations(model, store.holdout, found, seed),
        traversals=_traversals(model, found),
        latents=_latents(found, evaluation),
    )
    path = Path(out) if out else run.path / "report.html"
    write_atomically(path, page)
    console.print(f"report in {path}", soft_wrap=True)
    return path


# Configuration -----------------------------------------------------------------------------------------------


def spelled_out(folder: Path, config: dict[str, Any]) -> str:
    """The command of a run with every option, one per line.

    Raises:
        RunError: the configuration names no model.
    """
    settings = {name: value for name, value in config.items() if name != "out"}
    try:
        model = settings.pop("model")
        family, arguments = str(model["class_path"]), dict(model.get("init_args") or {})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{folder / CONFIG} is not the resolved command of a run") from error
    options = {"data": settings.pop("data"), "model": family.removeprefix("evae.")}
    options |= {f"model.{name}": value for name, value in arguments.items()}
    flags = {name.replace("_", "-") for name, value in settings.items() if value is True}
    settings = {name: value for name, value in settings.items() if not isinstance(value, bool)}
    options |= {name.replace("_", "-"): value for name, value in settings.items()} | {"out": "runs/again"}
    given = [_option(name, value) for name, value in options.items() if value is not None]
    given += [f"--{name}" for name in sorted(flags)]
    return " \\\n    ".join(["evae train", *given])


def _option(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    separator = "=" if text.startswith("-") else " "  # what starts with a dash would be taken for an option
    return f"--{name}{separator}{shlex.quote(text)}"


# Measurements and training -----------------------------------------------------------------------------------


def numbers_grid(section: Section) -> Grid:
    """A row for each number of a section."""
    rows = [
        [Cell(n.name), Cell(f"{n.value:.4g}"), Cell("" if n.error is None else f"{n.error:.2g}")]
        for n in section.numbers
    ]
    return Grid(["", "value", "standard error"], rows)


def _training(run: RunFolder, model: VAE) -> list[Figure]:
    return [
        Figure(charts.curves(panel), f"{panel.title} by epoch: {', '.join(curve.name for curve in panel.curves)}")
        for panel in charts.training_panels(run, model)
    ]


# Images ------------------------------------------------------------------------------------------------------


def _reconstructions(model: VAE, holdout: ImageSet, found: Survey) -> list[Figure]:
    figures = []
    for name, rows in by_error(found.errors, _SHOWN).items():
        real = originals(model, holdout, rows)
        low, high = found.errors[rows].aminmax()
        picture = charts.images(torch.cat([real, model.reconstruct(real)]), columns=len(rows))
        alt = f"{len(rows)} hold-out images above their reconstructions, {name} by squared error"
        figures.append(Figure(picture, alt, f"{name}: squared error {low:.3g} to {high:.3g} per pixel"))
    return figures


def _samples(model: VAE) -> list[Figure]:
    samples = model.sample(64)
    alt, caption = (f"{len(samples)} {text}" for text in ("images decoded from draws", "decoded draws"))
    return [Figure(charts.images(samples, columns=8), f"{alt} of the prior", f"{caption} of the prior")]


def _interpolations(model: VAE, holdout: ImageSet, found: Survey, seed: int) -> list[Figure]:
    pairs = min(_SHOWN, len(holdout) // 2)
    if pairs == 0:
        return []
    chosen = np.random.default_rng(seed).choice(len(holdout), (2, pairs), replace=False)
    starts, ends = map(torch.from_numpy, chosen)
    between = interpolations(model, found.codes[starts], found.codes[ends], _STEPS - 2, found.on_sphere)
    first, last = (originals(model, holdout, rows).cpu()[:, None] for rows in (starts, ends))
    return [
        Figure(charts.images(row, columns=len(row)), f"from hold-out image {a} to hold-out image {b}")
        for row, a, b in zip(torch.cat([first, between, last], 1), starts.tolist(), ends.tolist(), strict=True)
    ]


def _traversals(model: VAE, found: Survey) -> list[Figure]:
    return [
        Figure(
            charts.images(t.images, columns=_STEPS),
            f"images decoded while latent {t.latent} goes from {t.low:.2g} to {t.high:.2g}",
            f"z{t.latent}, variance {t.activity:.2g}: from {t.low:.2g} to {t.high:.2g}",
        )
        for t in traversals(model, found, _SHOWN, _STEPS)
    ]


def _latents(found: Survey, evaluation: Evaluation | None) -> list[Figure]:
    """The spread of the posteriors, and the mean divergence of each latent where the evaluation has it."""
    figures = []
    if found.spreads is not None and found.spread_name is not None:
        alt = f"histogram of the posteriors' {found.spread_name} over hold-out images and latents"
        figures.append(Figure(charts.histogram(found.spreads, "spread of the posteriors", found.spread_name), alt))
    sections = evaluation.sections.values() if evaluation else ()
    rates = [rate for s in sections for rate in s.details.get("rate_per_dimension") or () if rate is not None]
    if rates:
        picture = charts.bars(sorted(rates, reverse=True), "rate per latent", "latents, by rate", "nats per image")
        figures.append(Figure(picture, "bars of the mean divergence of each latent, largest first"))
    return figures
