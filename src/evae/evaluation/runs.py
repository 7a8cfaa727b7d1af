"""The images that a run is evaluated on, in batches."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from evae.console import progress, warn
from evae.data import Images, Store, open_store, to_float
from evae.data.store import OnBadImage
from evae.errors import ConfigError, DataError, RunError, first_line
from evae.models import VAE
from evae.training import run
from evae.training.checkpoints import trained_images

BATCH = 250


def usable_device(name: str) -> torch.device:
    """The device, once something has been put there.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        torch.zeros(1, device=name).cpu()
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"--device {name} cannot be used ({first_line(error)})") from error


def device_of(model: VAE) -> torch.device:
    """Where its weights are."""
    return next(model.parameters()).device


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
    if trained_images(folder) not in (None, store.fingerprint):
        warn(f"the images of {store.source} have changed since {folder} was trained on them")
    return store


def batches(images: Images, device: torch.device, title: str) -> Iterator[Tensor]:
    """The images in order, as floats (N, C, H, W) in [0, 1], with a progress bar."""
    with progress() as bar:
        task = bar.add_task(title, total=len(images))
        for start in range(0, len(images), BATCH):
            batch = to_float(images.read(slice(start, start + BATCH)), device)
            yield batch
            bar.advance(task, len(batch))
