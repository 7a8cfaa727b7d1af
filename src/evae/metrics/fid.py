"""Distances of reconstructions, and of samples, to the hold-out images by features: two sets, not comparable."""

from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from evae.console import progress, warn
from evae.data import Images, Store, to_float
from evae.data.cache import cache_folder
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
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE
from evae.runs.evaluation import Number
from evae.runs.images import BATCH, batches

_MAX_NEAREST = 1_000  # images whose nearest training image is looked for
_NEIGHBOURS = 5


def _measure(context: Context, options: Options) -> Measured:
    """Distances of reconstructions (the paper's protocol) and of samples of the prior to the hold-out images.

    Images are rounded to 8 bits before features are taken. With Inception's the Fréchet distance is called fid and the
    kernel distance kid, with others frechet_distance and kernel_distance.

    Raises:
        DataError: the features are not finite.
    """
    model, seed, extractor = context.model, context.seed, options.extractor
    assert extractor is not None  # as _depends_on says
    real = _real_features(context.store, extractor)
    rebuilt, drawn = FeatureSet(seed), FeatureSet(seed)
    for _, q in context.batches("features of reconstructions"):
        codes = model.code(q) if options.latents == "mean" else q.sample()
        rebuilt.add(extractor(to_bytes(model.decode(codes))))
    pictures, seen = [], 0
    for images in _drawn(model, options.samples):
        drawn.add(extractor(to_bytes(images)))
        pictures.append(images.cpu()[: max(0, _MAX_NEAREST - seen)])
        seen += len(images)
    _warn_of_few(min(real.count, drawn.count), real.kept.shape[1], extractor)
    numbers = [
        *_distances("reconstructions", rebuilt, real, extractor, seed),
        *_distances("samples", drawn, real, extractor, seed),
    ]
    if min(len(real.kept), len(drawn.kept)) > _NEIGHBOURS:
        covered = coverage(real.kept, drawn.kept, _NEIGHBOURS)._asdict()
        numbers += [Number(f"samples: {name}", value, better="higher") for name, value in covered.items()]
    settings: dict[str, str | int | float | bool] = {
        "features": extractor.name,
        "resize": extractor.resize,
        "real_count": real.count,
        "reconstructions: latents": options.latents,
        "reconstructions: count": rebuilt.count,
        "samples: count": drawn.count,
    }
    return Measured([*numbers, *_memorised(torch.cat(pictures), context.store)], settings)


def _depends_on(options: Options) -> dict[str, Any] | None:
    if options.extractor is None:
        return None
    own = uuid4().hex if options.extractor.is_own else ""  # code that may have changed is never measured already
    return {"features": options.extractor.identity + own, "samples": options.samples, "latents": options.latents}


DISTANCES = Measurement("distances", _measure, _depends_on)


def _distances(kind: str, features: FeatureSet, real: FeatureSet, extractor: Extractor, seed: int) -> list[Number]:
    frechet, kernel = ("fid", "kid") if extractor.is_fid else ("frechet_distance", "kernel_distance")
    distance = frechet_distance(features.mean, features.covariance, real.mean, real.covariance)
    return [
        Number(f"{kind}: {frechet}", distance, frechet_spread(features.kept, real.kept, seed), "lower"),
        Number(f"{kind}: {kernel}", *kernel_distance(features.kept, real.kept, seed), "lower"),
    ]


def _warn_of_few(count: int, dimension: int, extractor: Extractor) -> None:
    if count <= dimension:
        warn(
            f"{count} images are fewer than the {dimension} dimensions of {extractor.name}'s features: the Fréchet "
            f"distance depends on their number and is too large; more than {dimension} are needed, 10,000 are usual"
        )


def _drawn(model: VAE, count: int) -> Iterator[Tensor]:
    """``count`` images decoded from draws of the prior, in batches."""
    with progress() as bar:
        task = bar.add_task("features of samples", total=count)
        for start in range(0, count, BATCH):
            images = model.sample(min(BATCH, count - start))
            yield images
            bar.advance(task, len(images))


def _real_features(store: Store, extractor: Extractor) -> FeatureSet:
    """Features of the hold-out images, cached by the content of images and weights; not those of the user's code."""
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


def _memorised(samples: Tensor, store: Store) -> list[Number]:
    """Distance of samples and of hold-out images to the nearest training image: root mean square over pixels."""
    holdout = to_float(store.holdout.read(slice(0, _MAX_NEAREST)), torch.device("cpu"))
    nearest = _nearest(torch.cat([samples, holdout]), store.train)
    return [
        mean_of("samples: nearest_training_distance", nearest[: len(samples)]),
        mean_of("samples: nearest_training_distance_of_holdout", nearest[len(samples) :]),
    ]


def _nearest(images: Tensor, train: Images) -> Tensor:
    nearest = torch.full((len(images),), torch.inf)
    for start in range(0, len(train), 5_000):
        others = to_float(train.read(slice(start, start + 5_000)), torch.device("cpu"))
        nearest = torch.minimum(nearest, nearest_distance(images, others))
    return nearest
