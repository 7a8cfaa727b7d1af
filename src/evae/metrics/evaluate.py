"""A run and hold-out images to numbers: evaluation.json and a table."""

import json
import math
from collections.abc import Callable
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evae import checks
from evae.data import ImageOptions, Store
from evae.data.store import OnBadImage
from evae.errors import ConfigError
from evae.files import write_atomically
from evae.metrics.features import load_extractor
from evae.metrics.fid import score
from evae.metrics.latents import describe_latents
from evae.metrics.likelihood import bound_likelihood
from evae.metrics.probes import probe
from evae.metrics.reconstructions import measure
from evae.models.vae import CONFIG, WEIGHTS, Latents
from evae.numerics import resolve_device
from evae.runs import RunFolder
from evae.runs.evaluation import RESULTS, flat_metrics
from evae.runs.images import images_for


def evaluate(
    run_folder: Path,
    data: str | None = None,
    latents: Latents = "sample",
    image_size: int | None = None,
    crop: int | None = None,
    on_bad_image: OnBadImage = "skip",
    seed: int = 0,
    repeats: int = 1,
    likelihood: int | None = None,
    features: str | None = None,
    features_weights: Path | None = None,
    samples: int | None = None,
    probes: bool = False,
    device: str = "cpu",
    show: bool = True,
) -> dict[str, Any]:
    """Measure a run on the whole hold-out split; write evaluation.json and print a table.

    What was measured before, with the same weights, images and options, is not measured again, and stays in the file.

    Args:
        run_folder: the folder of a trained run.
        data: images to evaluate on instead of the run's own; as in evae train.
        latents: decode samples of each posterior, as in the paper, or its mean.
        image_size: resize other images to this; default: their own, which must be the model's.
        crop: side of the centre crop of other images.
        on_bad_image: skip images that cannot be decoded with a warning, or stop with an error.
        seed: of the samples.
        repeats: posterior samples for each image, over which its metrics are averaged.
        likelihood: also bound ln p(x) by importance weighting with so many posterior samples an image.
        features: also Fréchet and kernel distances of reconstructions and of samples to the hold-out images, and what
            samples cover, by features of inception (FID, KID), efficientnet-lite0, or your own module:callable.
        features_weights: file with Inception's weights (pt_inception-2015-12-05-6726825d.pth); default: downloaded.
        samples: images to draw for the distances; default: as many as there are hold-out images.
        probes: also tell classes from codes, for data with labels.
        device: where to compute, e.g. cpu or cuda.
        show: print the table.

    Returns:
        What evaluation.json holds: model, data, split, count, latents, metrics with their standard_errors, and what
        else was asked for. bce and the divergence are nats per image.

    Raises:
        RunError: the folder is no run, or its weights are damaged.
        DataError: the images or the features cannot be used.
        ConfigError: a setting cannot work.
    """
    for name, value in {"repeats": repeats, "samples": samples, "likelihood": likelihood}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    folder = Path(run_folder)
    model = RunFolder(folder).model().to(resolve_device(device))
    extractor = load_extractor(features, features_weights, resolve_device(device)) if features else None
    store = images_for(RunFolder(folder), model, data, ImageOptions(image_size, crop, on_bad_image))
    sections = _Sections(folder, store, checks.seed(seed))
    options: dict[str, Any] = {"latents": latents, "repeats": repeats}
    metrics, errors = sections.take("metrics", options, lambda: measure(model, store.holdout, latents, repeats))
    result = {
        "model": type(model).__name__,
        "data": store.source,
        "split": "holdout",
        "count": len(store.holdout),
        "images": store.fingerprint,
        "transform": store.transform,
        "latents": latents,
        "repeats": repeats,
        "seed": seed,
        "metrics": metrics,
        "standard_errors": errors,
    }
    sections.take("latents_report", {}, lambda: describe_latents(model, store.holdout))
    if likelihood is not None:
        sections.take("likelihood", {"samples": likelihood}, lambda: bound_likelihood(model, store.holdout, likelihood))
    if extractor is not None:
        count = samples or len(store.holdout)
        options = {"features": extractor.identity, "samples": count, "latents": latents}
        own = extractor.is_own  # which may do something else by now
        sections.take("distances", options, lambda: score(model, store, extractor, latents, count, seed), fresh=own)
    if probes:
        sections.take("probes", {}, lambda: probe(model, store, seed))
    result |= sections.to_keep()
    write_atomically(folder / RESULTS, json.dumps(result, indent=2) + "\n")
    if show:
        Console().print(results_table({str(folder): result}))
    return result


class _Sections:
    """Parts of evaluation.json, each with a key of all that it depends on."""

    def __init__(self, folder: Path, store: Store, seed: int) -> None:
        weights = [(folder / name).read_bytes() for name in (CONFIG, WEIGHTS)]
        depends_on = store.fingerprint, store.transform, seed, version("evae")
        self._basis = _digest(*weights, repr(depends_on).encode())
        self._seed = seed
        self._before = _read(folder / RESULTS)
        self._taken: dict[str, Any] = {}
        self._keys: dict[str, str] = {}

    def take(self, name: str, options: dict[str, Any], compute: Callable[[], Any], fresh: bool = False) -> Any:
        """The section as it was computed before, or computed now, always if ``fresh``, from the seed."""
        self._keys[name] = f"{self._basis}-{_digest(json.dumps(options, sort_keys=True).encode())}"
        known = not fresh and self._before.get("keys", {}).get(name) == self._keys[name]
        if known and name == "metrics":
            self._taken[name] = self._before["metrics"], self._before["standard_errors"]
        elif known:
            self._taken[name] = self._before[name]
        else:
            torch.manual_seed(self._seed)
            self._taken[name] = compute()
        return self._taken[name]

    def to_keep(self) -> dict[str, Any]:
        """The sections taken, and those from before of the same weights and images; and their keys."""
        before = {
            name: key
            for name, key in self._before.get("keys", {}).items()
            if name not in self._keys and key.startswith(self._basis) and name in self._before
        }
        kept = {name: self._before[name] for name in before}
        taken = {name: section for name, section in self._taken.items() if name != "metrics"}
        return {**kept, **taken, "keys": before | self._keys}


def _read(path: Path) -> dict[str, Any]:
    """An earlier evaluation; nothing where there is none, or a damaged one."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) and isinstance(result.get("keys"), dict) else {}


def _digest(*contents: bytes) -> str:
    digest = blake2b(digest_size=8)
    for content in contents:
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def results_table(results: dict[str, dict[str, Any]]) -> Table:
    """Runs side by side: a row for each metric with its standard error, a column for each run."""
    first = next(iter(results.values()))
    table = Table()
    about = [first["data"], f"{first['count']} hold-out images", f"latents: {first['latents']}"]
    features = {r["distances"]["samples"]["features"] for r in results.values() if "distances" in r}
    table.add_column(escape("\n".join([*about, *(f"features: {name}" for name in sorted(features))])))
    columns = [flat_metrics(result) for result in results.values()]
    for name, result in results.items():
        table.add_column(escape(f"{result['model']}\n{name}"), justify="right")
    for metric in dict.fromkeys(metric for column in columns for metric in column):
        table.add_row(metric, *(shown(*column[metric]) if metric in column else "" for column in columns))
    return table


def shown(value: float, error: float | None) -> str:
    """A number to read, and its standard error where it has one."""
    return f"{value:.4g}" if error is None or not math.isfinite(error) else f"{value:.4g} ± {error:.1g}"
