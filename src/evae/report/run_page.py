"""One page about a run: what it was told, what was measured, what it makes of images."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from evae import checks
from evae.console import console
from evae.data import ImageSet
from evae.errors import RunError
from evae.files import write_atomically
from evae.models import VAE
from evae.numerics import resolve_device
from evae.report import charts, pages
from evae.report.charts import Curve
from evae.report.exploration import Survey, by_error, interpolations, originals, survey, traversals
from evae.report.pages import Html
from evae.report.tables import Cell, Grid
from evae.runs import RunFolder
from evae.runs.evaluation import (
    distance_settings,
    epochs,
    numbers,
    points,
    rates,
    read_evaluation,
    spread_quantiles,
)
from evae.runs.folder import CONFIG
from evae.runs.images import own_images

_SHOWN = 8  # images of a kind; pairs of them; latents
_STEPS = 9  # images of a way through the latents, those at its ends included


def report(run_folder: Path, out: Path | None = None, seed: int = 0, device: str = "cpu") -> Path:
    """Write one HTML page about a run: configuration, measurements, losses, reconstructions, samples and latents.

    The page is one file, which needs neither the network nor the run. Measurements are those of evae evaluate.

    Args:
        run_folder: the folder of a trained run.
        out: the page; default: report.html in the run folder.
        seed: of the samples, and of the choice of images between which is interpolated.
        device: where to compute, e.g. cpu or cuda.

    Returns:
        The page.

    Raises:
        RunError: the folder is no run, what is in it is damaged, or the page cannot be written.
        DataError: the run's images are not there any more.
    """
    folder = Path(run_folder)
    model = RunFolder(folder).model().to(resolve_device(device))
    config, result = RunFolder(folder).config(), read_evaluation(folder)
    store = own_images(RunFolder(folder))
    torch.manual_seed(checks.seed(seed))
    samples = model.sample(64)
    found = survey(model, store.holdout)
    content = [
        _summary(folder, model, store.holdout),
        _configuration(folder, config),
        _measurements(folder, result, store.fingerprint),
        _training(folder, model),
        _reconstructions(model, store.holdout, found),
        pages.section("Samples", _prior(samples)),
        *_interpolations(model, store.holdout, found, seed),
        _latents(model, found, result or {}),
    ]
    path = Path(out) if out else folder / "report.html"
    write_atomically(path, pages.page(f"{type(model).__name__} on {config['data']}", content))
    console.print(f"report in {path}", soft_wrap=True)
    return path


def _summary(folder: Path, model: VAE, holdout: ImageSet) -> Html:
    channels, size, _ = model.image_shape
    weights = sum(p.numel() for p in model.parameters())
    kind = "grey" if channels == 1 else "colour"
    return pages.paragraph(
        f"The run in {folder}: {weights:,} weights. Below, images are the {len(holdout):,} hold-out images, {kind}, "
        f"{size} pixels a side; codes are the centres of their posteriors."
    )


# Configuration -----------------------------------------------------------------------------------------------


def _configuration(folder: Path, config: dict[str, Any]) -> Html:
    return pages.section(
        "Configuration",
        pages.paragraph("To train the same model again:"),
        pages.block(f"evae train --config {shlex.quote(str(folder / CONFIG))} --out runs/again"),
        pages.details("The same with every option", pages.block(spelled_out(folder, config))),
        pages.details(CONFIG, pages.block(yaml.safe_dump(config, sort_keys=False, allow_unicode=True).rstrip())),
    )


def spelled_out(folder: Path, config: dict[str, Any]) -> str:
    """The command of a run with every option, one a line.

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


def _measurements(folder: Path, result: dict[str, Any] | None, images: str) -> Html:
    if result is None:
        return pages.section(
            "Measurements",
            pages.paragraph(
                f"None yet: run `evae evaluate {shlex.quote(str(folder))}` to add errors of reconstructions, and with "
                "its options bounds on the likelihood, distances to real images and probes of the latents."
            ),
        )
    split = str(result.get("split", "?")).replace("holdout", "hold-out")
    about = (
        f"{result.get('count', '?')} {split} images of {result.get('data', '?')}; reconstructions decoded from "
        f"{_decoded_from(result)}; bce and terms of the objective are nats per image."
    )
    if result.get("images") != images:
        about += " These are not the images of the other figures on this page."
    rows = [
        [Cell(name), Cell(f"{value:.4g}"), Cell("" if error is None else f"{error:.2g}")]
        for name, (value, error) in numbers(result).items()
    ]
    notes = [
        pages.paragraph(f"{kind}: {', '.join(f'{name} {value}' for name, value in settings.items())}.")
        for kind, settings in distance_settings(result).items()
    ]
    name, quantiles = spread_quantiles(result)
    if quantiles:
        told = ", ".join(f"{value:.3g} at {share}" for share, value in quantiles.items())
        notes.append(pages.paragraph(f"Quantiles of the posteriors' {name}: {told}."))
    table = pages.table(Grid(["", "value", "standard error"], rows), "measurements")
    return pages.section("Measurements", pages.paragraph(about), table, *notes)


def _decoded_from(result: dict[str, Any]) -> str:
    repeats = result.get("repeats", 1)
    if result.get("latents") == "mean":
        return "posterior means"
    return "one posterior sample each" if repeats == 1 else f"{repeats} posterior samples each"


def _training(folder: Path, model: VAE) -> Html:
    lines = epochs(folder)
    names = ["loss", "reconstruction", model.objective.divergence_name]
    drawn = []
    for name in names:
        curves = [
            Curve("training", points(lines, name), dashed=True),
            Curve("hold-out", points(lines, f"holdout_{name}"), colour=1),
        ]
        if curves := [curve for curve in curves if curve.points]:
            picture = charts.curves(curves, name, "epoch", "" if name == "mmd" else "nats per image")
            drawn.append(pages.figure(picture, f"{name} by epoch, in training and on hold-out images"))
    return pages.section("Training", pages.charts(*drawn) if drawn else pages.paragraph("No epoch is on record."))


# Images ------------------------------------------------------------------------------------------------------


def _reconstructions(model: VAE, holdout: ImageSet, found: Survey) -> Html:
    figures = []
    for name, rows in by_error(found.errors, _SHOWN).items():
        real = originals(model, holdout, rows)
        low, high = found.errors[rows].aminmax()
        figures.append(
            pages.figure(
                charts.images(torch.cat([real, model.reconstruct(real)]), columns=len(rows)),
                f"{len(rows)} hold-out images above their reconstructions, {name} by squared error",
                f"{name}: squared error {low:.3g} to {high:.3g} per pixel",
            )
        )
    text = "Originals above what is decoded from their codes; chosen by squared error among all hold-out images."
    return pages.section("Reconstructions", pages.paragraph(text), pages.strips(*figures))


def _prior(samples: Tensor) -> Html:
    return pages.figure(
        charts.images(samples, columns=8),
        f"{len(samples)} images decoded from draws of the prior",
        f"{len(samples)} draws of the prior, decoded",
    )


def _interpolations(model: VAE, holdout: ImageSet, found: Survey, seed: int) -> list[Html]:
    pairs = min(_SHOWN, len(holdout) // 2)
    if pairs == 0:
        return []
    chosen = np.random.default_rng(seed).choice(len(holdout), (2, pairs), replace=False)
    starts, ends = map(torch.from_numpy, chosen)
    between = interpolations(model, found.codes[starts], found.codes[ends], _STEPS - 2, found.on_sphere)
    first, last = (originals(model, holdout, rows).cpu()[:, None] for rows in (starts, ends))
    figures = [
        pages.figure(charts.images(row, columns=len(row)), f"from hold-out image {a} to hold-out image {b}")
        for row, a, b in zip(torch.cat([first, between, last], 1), starts.tolist(), ends.tolist(), strict=True)
    ]
    way = "along great circles of the sphere" if found.on_sphere else "in straight lines"
    text = f"Between the codes of two hold-out images, {way}; the first and the last image of a row are the originals."
    return [pages.section("Interpolations", pages.paragraph(text), pages.strips(*figures))]


def _latents(model: VAE, found: Survey, result: dict[str, Any]) -> Html:
    moved = traversals(model, found, _SHOWN, _STEPS)
    text = (
        "The latents whose codes vary most over hold-out images, each through the range from the 5 % to the 95 % "
        "quantile of its codes, the others as in the code of the mean image"
        + (", scaled to stay on the sphere." if found.on_sphere else ".")
    )
    figures = [
        pages.figure(
            charts.images(t.images, columns=_STEPS),
            f"images decoded while latent {t.latent} goes from {t.low:.2g} to {t.high:.2g}",
            f"z{t.latent}, variance {t.activity:.2g}: from {t.low:.2g} to {t.high:.2g}",
        )
        for t in moved
    ]
    return pages.section(
        "Latents", pages.paragraph(text), pages.strips(*figures), pages.charts(*_spreads(found), *_rates(result))
    )


def _spreads(found: Survey) -> list[Html]:
    if found.spreads is None or found.spread_name is None:
        return []
    name = found.spread_name
    picture = charts.histogram(found.spreads, "spread of the posteriors", name)
    return [pages.figure(picture, f"histogram of the posteriors' {name} over hold-out images and latents")]


def _rates(result: dict[str, Any]) -> list[Html]:
    values = sorted(rates(result), reverse=True)
    if not values:
        return []
    picture = charts.bars(values, "rate per latent", "latents, by rate", "nats per image")
    return [pages.figure(picture, "bars of the mean divergence of each latent, largest first")]
