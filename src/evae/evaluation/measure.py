"""A run and hold-out images to numbers: evaluation.json and a table."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from evae.console import progress, warn
from evae.data import ImageSet, Store, open_store, to_float
from evae.data.batches import usable_seed
from evae.data.store import OnBadImage
from evae.errors import ConfigError, DataError, RunError
from evae.evaluation.likelihood import importance_weighted_bound, share_outside
from evae.evaluation.metrics import (
    PerImageMean,
    Sharpness,
    binary_cross_entropy,
    mean_squared_error,
    peak_signal_noise_ratio,
)
from evae.files import write_atomically
from evae.models import VAE
from evae.models.vae import Latents
from evae.training import load_model, run

_BATCH = 250


def evaluate(
    run_folder: Path,
    data: str | None = None,
    latents: Latents = "sample",
    image_size: int | None = None,
    crop: int | None = None,
    on_bad_image: OnBadImage = "skip",
    seed: int = 0,
    likelihood: int | None = None,
    device: str = "cpu",
    show: bool = True,
) -> dict[str, Any]:
    """Measure a run's reconstructions on the whole hold-out split; write evaluation.json and print a table.

    Args:
        run_folder: the folder of a trained run.
        data: images to evaluate on instead of the run's own; as in evae train.
        latents: decode one sample of each posterior, as in the paper, or its mean.
        image_size: resize other images to this; default: their own, which must be the model's.
        crop: side of the centre crop of other images.
        on_bad_image: skip images that cannot be decoded with a warning, or stop with an error.
        seed: of the posterior's samples.
        likelihood: also bound ln p(x) by importance weighting with so many posterior samples an image.
        device: where to compute, e.g. cpu or cuda.
        show: print the table.

    Returns:
        What evaluation.json holds: model, data, split, count, latents and metrics. bce and the divergence are nats
        per image.

    Raises:
        RunError: the folder is no run, or its weights are damaged.
        DataError: the images cannot be used with this model.
    """
    folder = Path(run_folder)
    model = load_model(folder).to(usable_device(device))
    store = run_data(folder, model, data, image_size, crop, on_bad_image)
    torch.manual_seed(usable_seed(seed))
    result = {
        "model": type(model).__name__,
        "data": store.source,
        "split": "holdout",
        "count": len(store.holdout),
        "images": store.fingerprint,
        "latents": latents,
        "seed": seed,
        "metrics": measure(model, store.holdout, latents),
    }
    if likelihood is not None:
        result["likelihood"] = bound_likelihood(model, store.holdout, likelihood)
    write_atomically(folder / "evaluation.json", json.dumps(result, indent=2) + "\n")
    if show:
        Console().print(results_table({str(folder): result}))
    return result


def usable_device(name: str) -> torch.device:
    """The device, once something has been put there.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        torch.zeros(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name} cannot be used ({str(error).splitlines()[0]})") from error


def run_data(
    folder: Path, model: VAE, data: str | None, image_size: int | None, crop: int | None, on_bad_image: OnBadImage
) -> Store:
    """The run's own images, or others of the shape its model takes.

    Raises:
        DataError: the images have another size or number of channels.
    """
    store = _own_images(folder, on_bad_image) if data is None else open_store(data, image_size, crop, on_bad_image)
    data = store.source
    channels, size, _ = model.image_shape
    if store.image_shape[0] != channels:
        raise DataError(f"the images of {data} have {store.image_shape[0]} channels, the model takes {channels}")
    if store.image_shape[1] != size:
        raise DataError(
            f"the images of {data} come to {store.image_shape[1]} pixels, the model takes {size}; "
            f"--image_size {size} resizes them"
        )
    return store


def _own_images(folder: Path, on_bad_image: OnBadImage) -> Store:
    config = run.read_config(folder)
    size, crop = config.get("image_size"), config.get("crop")
    if not all(value is None or isinstance(value, int) for value in (size, crop)):
        raise RunError(f"{folder / run.CONFIG}: image_size and crop must be whole numbers")
    try:
        store = open_store(config["data"], size, crop, on_bad_image)
    except DataError as error:
        raise DataError(f"the images {folder} was trained on: {error}; --data names others") from error
    if run.trained_images(folder) not in (None, store.fingerprint):
        warn(f"the images of {store.source} have changed since {folder} was trained on them")
    return store


def batches(images: ImageSet, device: torch.device, title: str) -> Iterator[Tensor]:
    """The images in order, as floats (N, C, H, W) in [0, 1], with a progress bar."""
    with progress() as bar:
        task = bar.add_task(title, total=len(images))
        for start in range(0, len(images), _BATCH):
            batch = to_float(images.images[start : start + _BATCH], device)
            yield batch
            bar.advance(task, len(batch))


@torch.no_grad()
def measure(model: VAE, images: ImageSet, latents: Latents) -> dict[str, float]:
    """The metrics of ``model``'s reconstructions of ``images``."""
    against_real = {
        "bce": PerImageMean(binary_cross_entropy),
        "mse": PerImageMean(mean_squared_error),
        "psnr": PerImageMean(peak_signal_noise_ratio),
    }
    terms = {"reconstruction": PerImageMean(), model.objective.divergence_name: PerImageMean()}
    sharpnesses = {"sharpness": Sharpness(), "sharpness_real": Sharpness()}
    for batch in batches(images, next(model.parameters()).device, "evaluating"):
        q = model.posterior(batch)
        p = model.likelihood(model.centre(q) if latents == "mean" else q.rsample())
        decoded, real = p.mean.cpu(), batch.cpu()
        for metric in against_real.values():
            metric.update(decoded, real)
        for metric, values in zip(
            terms.values(), (-p.log_prob(batch), model.objective.divergence(model, q)), strict=True
        ):
            metric.update(values.cpu())
        for metric, pictures in zip(sharpnesses.values(), (decoded, real), strict=True):
            metric.update(pictures)
    return {name: metric.compute().item() for name, metric in (against_real | terms | sharpnesses).items()}


@torch.no_grad()
def bound_likelihood(model: VAE, images: ImageSet, samples: int) -> dict[str, float]:
    """The importance-weighted bound on ln p(x): mean over images, its standard error, and both per dimension.

    For a prior whose support the posterior leaves there is no such bound; the share of samples that do is returned.
    For a posterior without a density there is none either, and nothing is returned; a warning says so.

    Raises:
        ConfigError: ``samples`` is not positive.
    """
    if samples < 1:
        raise ConfigError(f"likelihood must be at least 1 sample, not {samples}")
    device = next(model.parameters()).device
    few = to_float(images.images[:_BATCH], device)
    if (outside := share_outside(model, few, samples=10)) > 0:
        warn(
            f"no likelihood: the posterior leaves the prior's support ({outside:.1%} of its samples do), where "
            "ln p(z) is minus infinity; a model with a Gaussian prior has one"
        )
        return {"share_outside": outside}
    try:
        bounds = [importance_weighted_bound(model, b, samples) for b in batches(images, device, "likelihood")]
    except NotImplementedError as reason:
        warn(f"no likelihood: {reason}")
        return {}
    per_image = torch.cat(bounds).cpu()
    mean, error = per_image.mean().item(), per_image.std().item() / len(per_image) ** 0.5
    dimensions = math.prod(model.image_shape)
    return {
        "samples": samples,
        "bound": mean,
        "standard_error": error,
        "bound_per_dimension": mean / dimensions,
        "standard_error_per_dimension": error / dimensions,
    }


def results_table(results: dict[str, dict[str, Any]]) -> Table:
    """Runs side by side: a row for each metric, a column for each run."""
    first = next(iter(results.values()))
    table = Table()
    table.add_column(escape(f"{first['data']}\n{first['count']} hold-out images\nlatents: {first['latents']}"))
    for name, result in results.items():
        table.add_column(escape(f"{result['model']}\n{name}"), justify="right")
    metrics = list(dict.fromkeys(metric for result in results.values() for metric in result["metrics"]))
    for metric in metrics:
        values = [result["metrics"].get(metric) for result in results.values()]
        table.add_row(metric, *("" if value is None else f"{value:.4g}" for value in values))
    bounds = [result.get("likelihood", {}) for result in results.values()]
    if any("bound" in b for b in bounds):
        cells = [f"{b['bound']:.5g} ± {b['standard_error']:.2g}" if "bound" in b else "" for b in bounds]
        table.add_row("ln p(x) ≥", *cells)
    return table
