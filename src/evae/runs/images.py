"""The images that a run was trained on, and others that fit its model."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from evae.columns import Columns
from evae.console import console, progress, warn
from evae.data import ImageOptions, Images, ImageSet, Store, open_store, to_float
from evae.data.decode import NUMBERS, Channels
from evae.data.store import OnBadImage
from evae.errors import ConfigError, DataError, RunError
from evae.models import VAE
from evae.models.pretrained import read_columns
from evae.rounding import counted
from evae.runs.checkpoints import trained_images
from evae.runs.folder import RunFolder
from evae.runs.preprocessing import Preprocessing, RecolouredSet, cached_scaling

BATCH = 250
UNPUBLISHED = "(not published)"  # in place of the data of a run that evae push has published


def own_images(run: RunFolder, on_bad_image: OnBadImage = "skip") -> Store:
    """The images the run was trained on; a warning says where they have changed since.

    Raises:
        DataError: they are not there any more.
        RunError: the folder is not a run, or its config.yaml is damaged.
    """
    config = run.config()
    if config["data"] == UNPUBLISHED:
        raise DataError(f"the images {run} was trained on were not published")
    size, crop = _transform(run)
    channels: Channels = config.get("channels") or "auto"
    columns, column = read_columns(run.path), config.get("image_column")
    try:
        store = open_store(config["data"], size, crop, on_bad_image, column, columns=columns, channels=channels)
        store = store.split_validation(config.get("validation") or 0.0, config.get("seed") or 0)
    except DataError as error:
        what = "images" if columns is None else "rows"
        raise DataError(f"the {what} {run} was trained on: {error}") from error
    if trained_images(run) not in (None, store.fingerprint):
        warn(f"the {store.noun}s of {store.source} have changed since {run} was trained on them")
    return store


def images_for(run: RunFolder, model: VAE, data: str | None, options: ImageOptions) -> Store:
    """The run's own images or rows where ``data`` is None, else those of ``data``; of the shape the model takes.

    Other images have the run's size and crop unless the options name others; grey and colour are converted. Other rows
    are standardised as the run's.

    Raises:
        DataError: there are no such images, or they have another size.
    """
    if data is None:
        try:
            store = own_images(run, options.on_bad_image)
        except DataError as error:
            raise DataError(f"{error}; --data names others") from error
    elif model.is_row:
        size, crop = options.image_size, options.crop
        columns, column, channels = columns_of(model), options.image_column, options.channels
        store = open_store(data, size, crop, options.on_bad_image, column, columns=columns, channels=channels)
    else:
        size, crop = transform_for(run, model, options)
        channels = channels_for(run, model, options)
        store = open_store(data, size, crop, options.on_bad_image, options.image_column, channels=channels)
    if model.is_row or store.columns is not None:
        check_kind(store.columns is not None, model, store.source)
        return store
    (_, size, _), (taken, expected, _) = store.image_shape, model.image_shape
    if size != expected:
        sizes = f"resized to {size}x{size}, the model expects {expected}x{expected}"
        raise DataError(f"{store.source} is {sizes}; use --image-size {expected}")
    return store if store.image_shape[0] == taken else _recoloured(store, taken)


def columns_of(model: VAE) -> Columns:
    """The columns of a model of rows.

    Raises:
        RunError: they are not known, as the model was not trained by evae train.
    """
    if model.columns is None:
        raise RunError(
            f"the columns of this {type(model).__name__} are not known: columns.json, which evae train writes beside "
            "the weights, is missing"
        )
    return model.columns


def check_is_of_images(run: RunFolder, model: VAE, command: str, advice: str = "") -> None:
    """Raise ConfigError where the model of a run is of rows of numbers, which the command does not take."""
    if model.is_row:
        raise ConfigError(f"evae {command} is for images, and {run} is of rows of numbers{advice}")


def check_kind(has_rows: bool, model: VAE, source: str) -> None:
    """Raise DataError unless a model of rows is given rows, and a model of images is given images."""
    if has_rows != model.is_row:
        has, takes = ("rows of numbers", "images") if has_rows else ("images", "rows of numbers")
        raise DataError(f"--data {source} has {has}, and the model takes {takes}")


def _recoloured(store: Store, channels: int) -> Store:
    """The images with another number of channels, which ``transform`` tells."""
    had = store.image_shape[0]
    if {had, channels} != {1, 3} or not isinstance(store.train, ImageSet) or store.validation is not None:
        raise DataError(f"{store.source} has {had} channels, the model expects {channels}")
    console.print(f"--data {store.source}: converted from {had} to {channels} channels", soft_wrap=True)
    return replace(
        store,
        train=RecolouredSet(store.train, channels),
        holdout=RecolouredSet(store.holdout, channels),
        image_shape=(channels, *store.image_shape[1:]),
        transform=store.transform | {"channels": channels},
    )


def transform_for(run: RunFolder, model: VAE, options: ImageOptions) -> tuple[int, int | None]:
    """Size and crop of images that are not the run's own: what the options say, else those of the run.

    Raises:
        RunError: the folder is not a run, or its config.yaml is damaged.
    """
    size = model.image_shape[1] if options.image_size is None else options.image_size
    if options.crop is not None or not run.is_run:  # not a run: a model alone
        return size, options.crop
    _, crop = _transform(run)
    if crop is not None:
        console.print(f"cropped to {crop} pixels as the images of {run}; --crop chooses another side", soft_wrap=True)
    return size, crop


def channels_for(run: RunFolder, model: VAE, options: ImageOptions) -> Channels:
    """How images that are not the run's own are read: as those of the run; RGBA by a model of 4 channels.

    Raises:
        ConfigError: the options ask for another number than the model takes.
        RunError: config.yaml is damaged.
    """
    taken = model.image_shape[0]
    number = NUMBERS.get(options.channels, taken)
    if number != taken:
        raise ConfigError(
            f"--channels {options.channels} gives {counted(number, 'channel')}, and the model takes {taken}; "
            "leave it out"
        )
    if options.channels != "auto" or taken == 4:
        return "rgba" if taken == 4 else options.channels
    own: Channels = (run.config().get("channels") or "auto") if run.is_run else "auto"
    return own


def preprocessing(run: RunFolder, model: VAE) -> Preprocessing:
    """What the run does to images: its crop and size, the model's channels, and its training images' scale of values.

    The scale is read from the cache of decoded images, or the images are decoded again; where they are not there any
    more, a warning says so. A folder that holds a model alone has the defaults.

    Raises:
        RunError: config.yaml is damaged.
    """
    if not run.is_run:
        return Preprocessing(model.image_shape)
    _, crop = _transform(run)
    scaling = cached_scaling(trained_images(run))
    if scaling is None:
        try:
            scaling = own_images(run).scaling
        except DataError as error:
            warn(f"{error}; pixel values are taken as they are")
    return Preprocessing(model.image_shape, crop, scaling, channels_for(run, model, ImageOptions()))


def _transform(run: RunFolder) -> tuple[int | None, int | None]:
    """Size and crop of the run's images."""
    config = run.config()
    return config.get("image_size"), config.get("crop")


def batches(images: Images, device: torch.device, title: str) -> Iterator[Tensor]:
    """The images in order, as floats (N, C, H, W) in [0, 1], or standardised rows (N, F), with a progress bar."""
    with progress() as bar:
        task = bar.add_task(title, total=len(images))
        for start in range(0, len(images), BATCH):
            batch = to_float(images.read(slice(start, start + BATCH)), device)
            yield batch
            bar.advance(task, len(batch))
