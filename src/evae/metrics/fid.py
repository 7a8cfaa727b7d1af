"""Distances of reconstructions, and of samples, to the hold-out images by features: two sets, not comparable."""

import math
import os
from contextlib import suppress
from hashlib import blake2b
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from evae.console import progress, warn
from evae.data import Store, to_float
from evae.data.cache import cache_folder
from evae.figures import to_bytes
from evae.files import write_atomically
from evae.metrics import distances
from evae.metrics.distances import FeatureSet
from evae.metrics.features import Extractor
from evae.metrics.sections import Context, Measured, Measurement, Options, mean_of
from evae.models import VAE
from evae.runs.evaluation import Number
from evae.runs.images import BATCH, batches

_MAX_NEAREST = 1_000  # images whose nearest training image is looked for
_NEIGHBOURS = 5


def _measure(context: Context, options: Options) -> Measured:
    """Distances of reconstructions (the paper's protocol) and of samples of the prior to the hold-out images.

    Images are rounded to 8 bits. Of Inception's features the distances are called fid and kid.
    """
    model, extractor = context.model, options.extractor
    assert extractor is not None  # as _depends_on says
    real = _real_features(context.store, extractor)
    rebuilt = FeatureSet()
    for _, q in context.batches("features of reconstructions"):
        codes = model.code(q) if options.latents == "mean" else q.sample()
        rebuilt.add(extractor(to_bytes(model.decode(codes))))
    drawn, pictures = _drawn(model, options.samples, extractor)
    count, dimension = min(real.count, drawn.count), real.kept.shape[1]
    if count <= dimension:
        warn(
            f"{count} images are fewer than the {dimension} dimensions of {extractor.name}'s features: the Fréchet "
            f"distance depends on their number and is too large; more than {dimension} are needed, 10,000 are usual"
        )
    numbers = _distances("reconstructions", rebuilt, real, extractor, context.seed)
    numbers += _distances("samples", drawn, real, extractor, context.seed)
    if count > _NEIGHBOURS:
        covered = distances.coverage(real.kept, drawn.kept, _NEIGHBOURS)._asdict()
        numbers += [Number(f"samples: {name}", value, better="higher") for name, value in covered.items()]
    return Measured(
        [*numbers, *_memorised(pictures, context.store)],
        settings={
            "features": extractor.name,
            "resize": extractor.resize,
            "real_count": real.count,
            "reconstructions: latents": options.latents,
            "reconstructions: count": rebuilt.count,
            "samples: count": drawn.count,
        },
    )


def _depends_on(options: Options) -> dict[str, Any] | None:
    if options.extractor is None:
        return None
    own = uuid4().hex if options.extractor.is_own else ""  # code that may have changed is never measured already
    return {"features": options.extractor.identity + own, "samples": options.samples, "latents": options.latents}


DISTANCES = Measurement("distances", _measure, _depends_on)


def _distances(kind: str, features: FeatureSet, real: FeatureSet, extractor: Extractor, seed: int) -> list[Number]:
    if min(features.count, real.count) < 2:
        warn(f"no Fréchet and kernel distances of {kind}: they need at least 2 of them and 2 hold-out images")
        return []
    frechet, kernel = ("fid", "kid") if extractor.is_fid else ("frechet_distance", "kernel_distance")
    distance = distances.frechet_distance(features.mean, features.covariance, real.mean, real.covariance)
    kept, paired = (features.kept, real.kept), kind == "reconstructions"
    # The Fréchet distance is of all images, not only of those kept.
    error = distances.frechet_spread(*kept, seed) * math.sqrt(max(len(x.kept) / x.count for x in (features, real)))
    mmd = distances.kernel_distance_of_pairs(*kept) if paired else distances.kernel_distance(*kept, seed)
    return [Number(f"{kind}: {frechet}", distance, error, "lower"), Number(f"{kind}: {kernel}", *mmd, "lower")]


def _drawn(model: VAE, count: int, extractor: Extractor) -> tuple[FeatureSet, Tensor]:
    """Features of ``count`` images decoded from draws of the prior, and the first of these images."""
    features, images = FeatureSet(), []
    with progress() as bar:
        task = bar.add_task("features of samples", total=count)
        for start in range(0, count, BATCH):
            batch = model.sample(min(BATCH, count - start))
            features.add(extractor(to_bytes(batch)))
            images.append(batch.cpu()[: max(0, _MAX_NEAREST - start)])
            bar.advance(task, len(batch))
    return features, torch.cat(images)


def _real_features(store: Store, extractor: Extractor) -> FeatureSet:
    """Features of the hold-out images, cached by the content of images and weights; not those of the user's code."""
    depends_on = f"{store.fingerprint} {store.transform} {extractor.identity}"
    key = blake2b(depends_on.encode(), digest_size=12).hexdigest()
    path = cache_folder() / f"features-{key}.safetensors"
    if not extractor.is_own:
        with suppress(OSError):  # of a read-only cache
            os.utime(path)  # the last use, for evae cache
        with suppress(OSError, SafetensorError, KeyError):
            return FeatureSet.of_tensors(load_file(path))
    features = FeatureSet()
    for batch in batches(store.holdout, torch.device("cpu"), "features of hold-out images"):
        features.add(extractor(to_bytes(batch)))
    if not extractor.is_own:
        write_atomically(path, save(features.tensors()))
    return features


def _memorised(samples: Tensor, store: Store) -> list[Number]:
    """Distance of samples and of hold-out images to the nearest training image: root mean square over pixels."""
    cpu = torch.device("cpu")
    images = torch.cat([samples, to_float(store.holdout.read(slice(0, _MAX_NEAREST)), cpu)])
    nearest = torch.full((len(images),), torch.inf)
    for start in range(0, len(store.train), 5_000):
        others = to_float(store.train.read(slice(start, start + 5_000)), cpu)
        nearest = torch.minimum(nearest, distances.nearest_distance(images, others))
    return [
        mean_of("samples: nearest_training_distance", nearest[: len(samples)]),
        mean_of("samples: nearest_training_distance_of_holdout", nearest[len(samples) :]),
    ]
