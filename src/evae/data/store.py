"""Opening images: each is decoded once, into a folder of the cache, and memory-mapped afterwards."""

import errno
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from evae import checks
from evae.columns import Columns
from evae.console import console, warn
from evae.data.account import Account, warned
from evae.data.build import build_images, build_once, check_bad_images, left_out, usable
from evae.data.cache import cache_folder
from evae.data.decode import Channels
from evae.data.factors import Factors
from evae.data.images import Images, ImageSet, Split, Subset
from evae.data.levels import Scaling
from evae.data.memory import Data, named
from evae.data.record import META, Record
from evae.data.row_sets import RowSet, build_rows
from evae.data.rows import Source, StreamOptions, listed
from evae.data.sources import find_source
from evae.errors import ConfigError, DataError, RunError

OnBadImage = Literal["skip", "error"]

MAX_IMAGE_SIZE = 4096
_VERSION = 5  # of the files in a store; another version is another folder


@dataclass(frozen=True)
class ImageOptions:
    """Data: how images are read.

    Args:
        image_size: resize images to this height and width (default: 64 for folders and images above 32
            pixels, else 32).
        crop: side of the centre crop in the images' own pixels (default: the largest square; celeba: 140).
        on_bad_image: skip images that cannot be decoded, and rows with missing values, with a warning, or stop with an
            error.
        image_column: column of images of Parquet and Arrow files and of the hub, where there are several (default:
            told when they are decoded).
        channels: grey, rgb or rgba, which keeps alpha as the fourth channel, 255 for images without it; auto: grey
            where all images are, else rgb, transparent ones over white; arrays and TIFF files of other numbers of
            channels as they are.
    """

    image_size: int | None = None
    crop: int | None = None
    on_bad_image: OnBadImage = "skip"
    image_column: str | None = None
    channels: Channels = "auto"


@dataclass(frozen=True)
class Store:
    """Images of one source at one size, or rows of numbers.

    Attributes:
        source: as the user named it.
        train, holdout: the two splits.
        image_shape: (C, H, W); (F,) of rows.
        class_names: names of the labels; empty where they have none.
        fingerprint: digest of the decoded images and their split; where training images are streamed, of the hold-out
            images and of the names, sizes and times of all files.
        skipped: "name reason" of each undecodable image.
        transform: size and centre crop of the images, {"size", "crop"}; of rows the number of columns, {"columns"}.
        scaling: how values became 8 bits.
        account: what was found and every choice that was made; ``print(store.account)`` shows it.
        validation: training images held back by ``split_validation``.
        columns: of rows: their names, and what they are standardised by; None for images.
        factors: of generated images: what each of them shows, by its name.
    """

    source: str
    train: Images
    holdout: ImageSet
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...]
    transform: dict[str, int | None]
    scaling: Scaling
    account: Account
    validation: Images | None = None
    columns: Columns | None = None
    factors: Factors | None = None

    @property
    def noun(self) -> str:
        """What it has, in the singular: image or row."""
        return "image" if self.columns is None else "row"

    def split_validation(self, fraction: float, seed: int) -> "Store":
        """Hold back a random fraction of the training images for validation; the fingerprint is that of all images.

        Which images is a function of the seed, the number of training images and the fraction alone.

        Raises:
            ConfigError: the fraction is not in [0, 1), a split would be empty, or training images are streamed.
        """
        if fraction == 0:
            return self
        checks.fraction("validation", fraction)
        if not self.train.is_local:
            raise ConfigError("--validation cannot split streamed training images; leave out either it or hf-stream:")
        count = len(self.train)
        held = round(fraction * count)
        if not 0 < held < count:
            use = "validation" if held == 0 else "training"
            raise ConfigError(f"validation {fraction:g} of {count} training images leaves none for {use}; change it")
        # The words of the name make this another generator than those of the batches, which have two or three numbers.
        order = np.random.default_rng([checks.seed(seed), *b"validation"]).permutation(count)
        kept, back = np.sort(order[held:]), np.sort(order[:held])
        return replace(self, train=Subset(self.train, kept, "train"), validation=Subset(self.train, back, "validation"))


def open_store(
    data: Data,
    image_size: int | None = None,
    crop: int | None = None,
    on_bad_image: OnBadImage = "skip",
    image_column: str | None = None,
    show_account: bool = False,
    columns: Columns | None = None,
    channels: Channels = "auto",
) -> Store:
    """The images, or rows, of ``data``, decoded first if the cache does not have them; then the account is printed.

    Args:
        data: a name or path, see ``find_source``; or an array, tensor or table, or a list of image files, which are
            written to the cache (``evae.data.memory``).
        image_size: height and width to resize to; None: the source's own choice.
        crop: side of the centre crop in the images' pixels; None: the source's own choice, else the shorter side.
        on_bad_image: "skip" skips undecodable images with a warning that has their number and the first five names;
            "error" stops.
        image_column: the column of images of a table; None: the one that datasets' metadata, its name or its content
            tells.
        show_account: print the account also where the images were decoded before.
        columns: of rows: those of a model, to be selected and standardised by; None: all that are not constant, by the
            mean and standard deviation of the training rows.
        channels: of the images, see ``ImageOptions``.

    Raises:
        ConfigError: an option is not valid.
        DataError: there are no such images, or not enough that can be decoded.
    """
    check_transform(image_size, crop)
    skip_bad = checks.one_of("on_bad_image", on_bad_image, get_args(OnBadImage)) == "skip"
    checks.one_of("channels", channels, get_args(Channels))
    source = _with_column(find_source(named(data)), image_column)
    if source.numbers is None and columns is not None:
        raise DataError(f"--data {source.name} has images, and the model takes rows of numbers")
    if source.numbers is None:
        size = source.size if image_size is None else image_size
        crop = source.crop if crop is None else crop
        key: list[object] = [_VERSION, source.key, size, crop, channels]
        build = partial(build_images, source, size, crop, channels, skip_bad)
    else:
        if (image_size, crop, channels) != (None, None, "auto"):
            raise ConfigError(
                f"--data {source.name} has rows of numbers; --image-size, --crop and --channels are for images"
            )
        key, build = [_VERSION, source.key], partial(build_rows, source, skip_bad)
    folder = cache_folder() / blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    try:
        cached = usable(folder)
        record = cached or build_once(folder, build)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; free some space or set EVAE_CACHE to another disk" if is_full else ""
        reason = error.strerror or error
        raise DataError(f"the image cache in {folder.parent} cannot be used ({reason}){hint}") from error
    with suppress(OSError):  # of a read-only cache
        os.utime(folder / META)  # the last use, for evae cache
    if show_account or not cached:
        console.print(str(record.account), soft_wrap=True)
    record = _tell(record, source, folder, skip_bad)
    if record.columns is not None:
        return _rows(source, record, folder, record.columns, columns)
    shape, scaling = record.image_shape, record.scaling
    train = ImageSet(folder, "train", (record.count.get("train", 0), *shape))
    options = StreamOptions(shape, crop, skip_bad, scaling, record.class_names, channels)
    return Store(
        source=source.name,
        train=source.stream(options) if source.stream else train,
        holdout=ImageSet(folder, "holdout", (record.count["holdout"], *shape)),
        image_shape=shape,
        class_names=record.class_names,
        fingerprint=record.fingerprint,
        skipped=record.skipped,
        transform=record.transform,
        scaling=scaling,
        account=record.account,
        factors=source.factors,
    )


def _rows(source: Source, record: Record, folder: Path, stored: Columns, wanted: Columns | None) -> Store:
    """A store of rows, of the wanted columns or of all that are not constant."""
    places = [i for i, deviation in enumerate(stored.deviation) if deviation > 0]
    columns = stored.select(places) if wanted is None else wanted
    if wanted is not None:
        places = wanted.places_in(stored.names, f"--data {source.name}")

    def of(split: Split) -> RowSet:
        return RowSet(folder, split, (record.count[split], len(columns)), columns, places, len(stored))

    return Store(
        source=source.name,
        train=of("train"),
        holdout=of("holdout"),
        image_shape=(len(columns),),
        class_names=record.class_names,
        fingerprint=record.fingerprint,
        skipped=record.skipped,
        transform={"columns": len(columns)},
        scaling=record.scaling,
        account=record.account,
        columns=columns,
    )


def _with_column(source: Source, column: str | None) -> Source:
    """The source with the user's choice of a column."""
    if column is None or column == source.column:
        return source
    if source.with_column is None:
        raise ConfigError(f"--image-column {column} is for tables; --data {source.name} has no columns")
    return source.with_column(column)


def _tell(record: Record, source: Source, folder: Path, skip_bad: bool) -> Record:
    """Warn of what may be wrong, and tell what is left out now and was not when the images were decoded."""
    data, found, skipped = source.name, source.found, record.skipped
    if found.unused:
        warn(f"--data {data}: left out, as neither the training nor the hold-out split: {listed(found.unused)}")
    if lost := warned(found.left_out):
        warn(f"--data {data}: not read: {lost}")
    for sentence in record.account.warnings:
        warn(f"--data {data}: {sentence}")
    check_bad_images(skipped, skip_bad, source.noun)
    if skipped:
        noun = source.noun if len(skipped) == 1 else f"{source.noun}s"
        warn(f"{len(skipped)} bad {noun} skipped: {listed(skipped, '; ')}")
    now = left_out(source, skipped)
    if now == record.account.left_out:
        return record
    if new := [entry for entry in now if entry not in record.account.left_out and not entry.lost]:
        console.print(f"--data {data}: left out: {'; '.join(map(str, new))}", soft_wrap=True)
    record = record.accounted(replace(record.account, left_out=now))
    with suppress(OSError, RunError):  # of a read-only cache
        record.write(folder)
    return record


def check_transform(image_size: int | None, crop: int | None) -> None:
    """Raise ConfigError unless images can be cropped and resized so; None is the source's own choice."""
    if image_size is not None and not 1 <= image_size <= MAX_IMAGE_SIZE:
        raise ConfigError(f"the image size must be from 1 to {MAX_IMAGE_SIZE}, not {image_size}")
    if crop is not None and crop < 1:
        raise ConfigError(f"the crop must be positive, not {crop}")
