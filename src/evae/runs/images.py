"""The images that a run was trained on, and others that fit its model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from evae.console import progress, warn
from evae.data import ImageOptions, Images, Store, open_store, to_float
from evae.data.store import OnBadImage
from evae.errors import DataError, RunError
from evae.models import VAE
from evae.runs.checkpoints import trained_images
from evae.runs.folder import CONFIG, RunFolder

BATCH = 250


def own_images(run: RunFolder, on_bad_image: OnBadImage = "skip") -> Store:
    """The images the run was trained on; a warning says where they have changed since.

    Raises:
        DataError: they are not there any more.
        RunError: the folder is not a run, or its config.yaml is damaged.
    """
    config = run.config()
    size, crop = config.get("image_size"), config.get("crop")
    if not all(value is None or isinstance(value, int) for value in (size, crop)):
        raise RunError(f"{run.path / CONFIG}: image_size and crop must be whole numbers")
    try:
        store = open_store(config["data"], size, crop, on_bad_image, config.get("image_column"))
        store = store.split_validation(config.get("validation") or 0.0, config.get("seed") or 0)
    except DataError as error:
        raise DataError(f"the images {run} was trained on: {error}") from error
    if trained_images(run) not in (None, store.fingerprint):
        warn(f"the images of {store.source} have changed since {run} was trained on them")
    return store


def images_for(run: RunFolder, model: VAE, data: str | None, options: ImageOptions) -> Store:
    """The run's own images where ``data`` is None, else those of ``data``; of the shape the model takes.

    Raises:
        DataError: there are no such images, or they have another size or number of channels.
    """
    if data is None:
        try:
            store = own_images(run, options.on_bad_image)
        except DataError as error:
            raise DataError(f"{error}; --data names others") from error
    else:
        store = open_store(data, options.image_size, options.crop, options.on_bad_image, options.image_column)
    (channels, size, _), (wanted, expected, _) = store.image_shape, model.image_shape
    if channels != wanted:
        raise DataError(f"{store.source} has {channels} channels, the model expects {wanted}")
    if size != expected:
        sizes = f"resized to {size}x{size}, the model expects {expected}x{expected}"
        raise DataError(f"{store.source} is {sizes}; use --image-size {expected}")
    return store


def batches(images: Images, device: torch.device, title: str) -> Iterator[Tensor]:
    """The images in order, as floats (N, C, H, W) in [0, 1], with a progress bar."""
    with progress() as bar:
        task = bar.add_task(title, total=len(images))
        for start in range(0, len(images), BATCH):
            batch = to_float(images.read(slice(start, start + BATCH)), device)
            yield batch
            bar.advance(task, len(batch))
