"""Reconstructions and samples against hold-out images, by features. Never mixed up: each has its own entry."""

from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from evae.console import progress, warn
from evae.data import Images, Store, to_float
from evae.data.store import cache_folder
from evae.figures import to_bytes
from evae.files import write_atomically
from evae.metrics.distances import (
    FeatureSet,
    coverage,
    frechet_distance,
    frechet_spread,
    kernel_distance,
    nearest_distance,
)
from evae.metrics.features import Extractor
from evae.models import VAE
from evae.models.vae import Latents
from evae.runs.images import BATCH, batches

_MOST_NEAREST = 1_000  # images whose nearest training image is looked for
_NEIGHBOURS = 5


@torch.no_grad()
def score(
    model: VAE, store: Store, extractor: Extractor, latents: Latents, samples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Distances of reconstructions (the paper's protocol) and of samples of the prior to the hold-out images.

    Images are rounded to 8 bits before features are taken. With Inception's the Fréchet distance is called fid and the
    kernel distance kid, with others frechet_distance and kernel_distance.

    Raises:
        DataError: the features are not finite.
    """
    holdout = store.holdout
    real = _real_features(store, extractor)
    rebuilt, drawn = FeatureSet(seed), FeatureSet(seed)
    for batch in batches(holdout, model.device, "features of reconstructions"):
        rebuilt.add(extractor(to_bytes(model.reconstruct(batch, latents))))
    pictures, seen = [], 0
    for images in _drawn(model, samples):
        drawn.add(extractor(to_bytes(images)))
        pictures.append(images.cpu()[: max(0, _MOST_NEAREST - seen)])
        seen += len(images)
    _warn_of_few(min(real.count, drawn.count), real.kept.shape[1], extractor)
    about = {"features": extractor.name, "resize": extractor.resize, "split": "holdout", "real_count": real.count}
    names = ("fid", "kid") if extractor.is_fid else ("frechet_distance", "kernel_distance")
    reconstructions = {**about, "count": rebuilt.count, **_distances(rebuilt, real, names, seed)}
    of_samples = {**about, "count": drawn.count, **_distances(drawn, real, names, seed)}
    if min(len(real.kept), len(drawn.kept)) > _NEIGHBOURS:
        of_samples |= coverage(real.kept, drawn.kept, _NEIGHBOURS)._asdict()
    return {"reconstructions": reconstructions, "samples": of_samples | _memorised(torch.cat(pictures), store)}


def _distances(features: FeatureSet, real: FeatureSet, names: tuple[str, str], seed: int) -> dict[str, float]:
    frechet, kernel = names
    distance, error = kernel_distance(features.kept, real.kept, seed)
    return {
        frechet: frechet_distance(features.mean, features.covariance, real.mean, real.covariance),
        f"{frechet}_error": frechet_spread(features.kept, real.kept, seed),
        kernel: distance,
        f"{kernel}_error": error,
    }


def _warn_of_few(count: int, dimension: int, extractor: Extractor) -> None:
    if count <= dimension:
        warn(
            f"{count} images are fewer than the {dimension} dimensions of {extractor.name}'s features: the Fréchet "
            f"distance depends on their number and is too large; more than {dimension} are needed, 10,000 are usual"
        )


def _drawn(model: VAE, count: int) -> Iterator[Tensor]:
    """So many images decoded from draws of the prior, in batches."""
    with progress() as bar:
        task = bar.add_task("features of samples", total=count)
        for start in range(0, count, BATCH):
            images = model.sample(min(BATCH, count - start))
            yield images
            bar.advance(task, len(images))


def _real_features(store: Store, extractor: Extractor) -> FeatureSet:
    """Features of the hold-out images, kept in the cache by content of images and weights (not of one's own code)."""
    depends_on = f"{store.fingerprint} {store.transform} {extractor.identity}"
    key = blake2b(depends_on.encode(), digest_size=12).hexdigest()
    path = cache_folder() / f"features-{key}.safetensors"
    if not extractor.is_own:
        with suppress(OSError, SafetensorError, KeyError):
            return FeatureSet.of_tensors(load_file(path))
    features = FeatureSet()
    for batch in batches(store.holdout, torch.device("cpu"), "features of hold-out images"):
        features.add(extractor(to_bytes(batch)))
    if not extractor.is_own:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, save(features.tensors()))
    return features


def _memorised(samples: Tensor, store: Store) -> dict[str, Any]:
    """How near samples come to training images, beside how near hold-out images do: root mean square over pixels."""
    holdout = to_float(store.holdout.images[:_MOST_NEAREST], torch.device("cpu"))
    nearest = _nearest(torch.cat([samples, holdout]), store.train)
    return {
        "nearest_training_distance": nearest[: len(samples)].mean().item(),
        "nearest_training_distance_of_holdout": nearest[len(samples) :].mean().item(),
    }


def _nearest(images: Tensor, train: Images) -> Tensor:
    nearest = torch.full((len(images),), torch.inf)
    for start in range(0, len(train), 5_000):
        others = to_float(train.read(slice(start, start + 5_000)), torch.device("cpu"))
        nearest = torch.minimum(nearest, nearest_distance(images, others))
    return nearest
