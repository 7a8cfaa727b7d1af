"""Distances of reconstructions, and of samples of each prior, to the hold-out images by features."""

import math
import os
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from torch import Tensor

from evae.console import progress, warn
from evae.data import Store, to_float
from evae.data.cache import cache_folder
from evae.figures import to_bytes
from evae.files import remove_leftovers, write_atomically
from evae.metrics import distances
from evae.metrics.distances import FeatureSet
from evae.metrics.features import Extractor
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE
from evae.models.vae import Prior
from evae.models.weights import load_weights, read_weights, save_weights
from evae.records import RecordError
from evae.runs.evaluation import Number
from evae.runs.images import BATCH, batches

_MAX_NEAREST = 1_000  # images whose nearest training image is looked for
_NEIGHBOURS = 5


def _measure(context: Context, options: Options) -> Measured:
    """Distances of reconstructions (the paper's protocol), and of samples of the model's own prior, to hold-out images.

    Images are rounded to 8 bits. Of Inception's features the distances are called fid and kid.
    """
    model, extractor = context.model, _extractor(options)
    real = _real_features(context, extractor)
    rebuilt = FeatureSet()
    for _, q in context.batches("features of reconstructions"):
        codes = model.code(q) if options.latents == "mean" else q.sample()
        rebuilt.add(extractor(to_bytes(model.decode(codes))))
    numbers = _distances("reconstructions", rebuilt, real, extractor, context.seed)
    sampled = _measure_samples(context, options, "model")
    settings = {"reconstructions: latents": options.latents, "reconstructions: count": rebuilt.count}
    return replace(sampled, numbers=[*numbers, *sampled.numbers], settings=settings | sampled.settings)


def _measure_fitted(context: Context, options: Options) -> Measured:
    """The same of samples of the prior that evae fit-prior fitted."""
    measured = _measure_samples(context, options, "fitted")
    return replace(measured, details={"prior": str(context.model.read_prior())})


def _measure_samples(context: Context, options: Options, prior: Prior) -> Measured:
    """Distances to the hold-out images, coverage, and the copy check of samples of a prior."""
    extractor, name = _extractor(options), f"{prior} prior"
    real = _real_features(context, extractor)
    _warn_of_few(min(real.count, options.samples), real.kept.shape[1], extractor)
    drawn, pictures = _drawn(context.model, prior, options.samples, extractor)
    numbers = _distances(name, drawn, real, extractor, context.seed)
    if min(real.count, drawn.count) > _NEIGHBOURS:
        covered = distances.coverage(real.kept, drawn.kept, _NEIGHBOURS)._asdict()
        numbers += [Number(f"{name}: {key}", value, better="higher") for key, value in covered.items()]
    settings: dict[str, str | int | float | bool] = {
        "features": extractor.name,
        "resize": extractor.resize,
        "real_count": real.count,
        f"{name}: count": drawn.count,
    }
    return Measured([*numbers, *_copy_check(name, pictures, context)], settings)


def _extractor(options: Options) -> Extractor:
    assert options.extractor is not None  # as _depends_on says
    return options.extractor


def _warn_of_few(count: int, dimension: int, extractor: Extractor) -> None:
    if count < 2 * dimension:
        warn(
            f"{count} images are fewer than twice the {dimension} dimensions of {extractor.name}'s features: the "
            f"Fréchet distance depends on their number and is too large, also where it is extrapolated to infinitely "
            f"many; {2 * dimension} are needed, 10,000 are usual"
        )


def _depends_on(options: Options) -> dict[str, Any] | None:
    if options.extractor is None:
        return None
    own = uuid4().hex if options.extractor.is_own else ""  # code that may have changed is never measured already
    return {
        "features": options.extractor.identity + own,
        "samples": options.samples,
        "latents": options.latents,
    }


DISTANCES = Measurement("distances", _measure, _depends_on)
FITTED_DISTANCES = Measurement("distances, fitted prior", _measure_fitted, _depends_on, True)


def _distances(kind: str, features: FeatureSet, real: FeatureSet, extractor: Extractor, seed: int) -> list[Number]:
    if min(features.count, real.count) < 2:
        warn(f"no Fréchet and kernel distances of {kind}: they need at least 2 of them and 2 hold-out images")
        return []
    frechet, kernel = ("fid", "kid") if extractor.is_fid else ("frechet_distance", "kernel_distance")
    distance = distances.frechet(features, real, seed)
    kept, paired = (features.kept, real.kept), kind == "reconstructions"
    mmd = distances.kernel_distance_of_pairs(*kept) if paired else distances.kernel_distance(*kept, seed)
    numbers = [Number(f"{kind}: {frechet}", distance.distance, distance.error, "lower")]
    if not math.isnan(distance.limit):
        numbers.append(Number(f"{kind}: {frechet}_infinity", distance.limit, distance.limit_error, "lower"))
    return [*numbers, Number(f"{kind}: {kernel}", *mmd, "lower")]


def _drawn(model: VAE, prior: Prior, count: int, extractor: Extractor) -> tuple[FeatureSet, Tensor]:
    """Features of ``count`` images decoded from draws of a prior, and the first of these images."""
    features, images = FeatureSet(), []
    with progress() as bar:
        task = bar.add_task(f"features of samples, {prior} prior", total=count)
        for start in range(0, count, BATCH):
            batch = model.sample(min(BATCH, count - start), prior)
            features.add(extractor(to_bytes(batch)))
            images.append(batch.cpu()[: max(0, _MAX_NEAREST - start)])
            bar.advance(task, len(batch))
    return features, torch.cat(images)


def _real_features(context: Context, extractor: Extractor) -> FeatureSet:
    """Features of the hold-out images, once for all sections."""
    return context.once("features of hold-out images", lambda: _cached_features(context.store, extractor))


def _cached_features(store: Store, extractor: Extractor) -> FeatureSet:
    """Features of the hold-out images, cached by the content of images and weights; not those of the user's code."""
    depends_on = f"with digest {store.fingerprint} {store.transform} {extractor.identity}"
    key = blake2b(depends_on.encode(), digest_size=12).hexdigest()
    path = cache_folder() / f"features-{key}.safetensors"
    if not extractor.is_own:
        with suppress(OSError):  # of a read-only cache
            os.utime(path)  # the last use, for evae cache
        with suppress(OSError, RecordError, SafetensorError):
            return FeatureSet.of_tensors(load_weights(read_weights(path)))
    features = FeatureSet()
    for batch in batches(store.holdout, torch.device("cpu"), "features of hold-out images"):
        features.add(extractor(to_bytes(batch)))
    if not extractor.is_own:
        remove_leftovers(path.parent)
        write_atomically(path, save_weights(features.tensors()))
    return features


def _copy_check(name: str, samples: Tensor, context: Context) -> list[Number]:
    """Distances to the nearest training image, of samples and of hold-out images."""
    store = context.store

    def of_holdout() -> Tensor:
        holdout = to_float(store.holdout.read(slice(0, _MAX_NEAREST)), torch.device("cpu"))
        return nearest_training_images(holdout, store)[0]

    return [
        mean_of(f"{name}: nearest_training_distance", nearest_training_images(samples, store)[0]),
        mean_of(f"{name}: nearest_training_distance_of_holdout", context.once("copy check", of_holdout)),
    ]


def nearest_training_images(images: Tensor, store: Store) -> tuple[Tensor, Tensor]:
    """Distance of images (N, C, H, W) to the nearest training image, root mean square over pixels; its index; (N,)."""
    nearest, index = torch.full((len(images),), torch.inf), torch.zeros(len(images), dtype=torch.long)
    for start in range(0, len(store.train), 5_000):
        others = to_float(store.train.read(slice(start, start + 5_000)), torch.device("cpu"))
        found, row = distances.nearest(images, others)
        index = torch.where(found < nearest, start + row, index)
        nearest = torch.minimum(nearest, found)
    return nearest, index
