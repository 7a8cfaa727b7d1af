"""What a run does to images: one rule for those it was trained on and for all that come later."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from evae.console import progress, warn
from evae.data import ImageSet
from evae.data.account import warned
from evae.data.cache import cache_folder
from evae.data.decode import SUFFIXES, Channels, Decoder, SmallerThanCropError
from evae.data.levels import Levels, Scaling
from evae.data.record import DamagedStoreError, Record
from evae.data.rows import Row, Source, existing, listed, read_content
from evae.data.sources import find_source
from evae.data.workers import Decoded, Plan, decode_all
from evae.errors import ConfigError, DataError
from evae.rounding import counted

LUMA = np.array([19595, 38470, 7471], np.uint32)  # weights of R, G and B: Pillow's, of 2**16


@dataclass(frozen=True)
class Preprocessing:
    """How images become what a model takes.

    Args:
        image_shape: (C, S, S) of the model; C = 0: as many channels as the images have, 3 of grey ones.
        crop: side of the centre square in the images' own pixels; None: the shorter side.
        scaling: how values become 8 bits; None: floating-point images are scaled by their own range.
        channels: how images are read; alpha is kept where C is 4.
    """

    image_shape: tuple[int, ...]
    crop: int | None = None
    scaling: Scaling | None = None
    channels: Channels = "auto"

    @property
    def reading(self) -> Channels:
        """``channels``, or what a model of 4 channels needs."""
        return "rgba" if self.image_shape[0] == 4 else self.channels

    def load(self, file: Path) -> NDArray[np.uint8]:
        """An image file as 8-bit (C, S, S).

        Raises:
            DataError: it cannot be read, is no image, or is smaller than the crop.
        """
        channels, size, _ = self.image_shape
        try:
            pixels = Decoder(size, self.crop, self.scaling, self.reading)(read_content(file))
        except SmallerThanCropError as error:
            raise DataError(f"{file} is smaller than the run's crop of {self.crop} pixels") from error
        except DataError as error:
            raise DataError(f"{file} {error}") from error
        return recoloured(pixels, channels, str(file))

    def load_all(self, source: Source, found: "Found") -> Iterator[tuple[list[Decoded], NDArray[np.uint8]]]:
        """All images of a source, some at a time, as 8-bit (N, C, S, S); ``found`` collects what else is known."""
        channels, size, _ = self.image_shape
        plan = Plan(size, self.crop, self.scaling or Scaling(), self.reading)
        with TemporaryDirectory(prefix="evae-") as folder, progress() as bar:
            task = bar.add_task(f"decoding {source.name}", total=source.count)
            for chunk in decode_all(source, plan, Path(folder)):
                pixels = chunk.take(size)
                found.levels.add(chunk.levels)
                found.bad += chunk.bad
                bar.advance(task, len(chunk.images) + len(chunk.bad))
                if chunk.images:
                    yield chunk.images, recoloured(pixels, channels or chunk.width, f"--data {source.name}")

    def check_levels(self, source: Source, levels: Levels) -> None:
        """Warn where the values of a source would have become 8 bits by another rule, had it been trained on.

        Raises:
            DataError: floating-point values are neither in [0, 1] nor in [0, 255].
        """
        own, used = levels.scaling(source.name), self.scaling or Scaling()
        bytes_differ = "8-bit" in levels.images and own.bytes != used.bytes
        floats_differ = "floating-point" in levels.images and own.floats != used.floats
        if own.words > used.words:
            warn(
                f"--data {source.name}: 16-bit values up to {levels.word:,} are cut at {used.words:,}, the white of "
                "the images the model was trained on; scale them first"
            )
        if bytes_differ or floats_differ:
            what, factor = ("8-bit", used.bytes) if bytes_differ else ("floating-point", used.floats)
            warn(
                f"--data {source.name}: {what} values are multiplied by {factor}, as those of the images the model was "
                "trained on; they have another range, so scale them first"
            )


@dataclass
class Found:
    """What is known of the images of a source after they were loaded.

    Attributes:
        levels: their values.
        bad: "name reason" of each that cannot be decoded.
    """

    levels: Levels = field(default_factory=Levels)
    bad: list[str] = field(default_factory=list)


def recoloured(pixels: NDArray[np.uint8], channels: int, source: str = "the images") -> NDArray[np.uint8]:
    """Images (..., C, H, W) with another number of channels: grey repeated, colour to grey by Pillow's luma.

    The luma of grey in three channels is that grey.

    Raises:
        DataError: neither number is 1 or 3.
    """
    had = pixels.shape[-3]
    if had == channels:
        return pixels
    if {had, channels} != {1, 3}:
        raise DataError(f"{source}: images have {counted(had, 'channel')}, and the model takes {channels}")
    if pixels.shape[-3] == 1:
        return np.broadcast_to(pixels, (*pixels.shape[:-3], channels, *pixels.shape[-2:]))
    weighed = pixels.astype(np.uint32) * LUMA[:, None, None]
    grey = (weighed.sum(axis=-3, keepdims=True, dtype=np.uint32) + 2**15) >> 16
    return np.asarray(grey, np.uint8)


class RecolouredSet(ImageSet):
    """Decoded images with another number of channels."""

    def __init__(self, stored: ImageSet, channels: int) -> None:
        count, _, height, width = stored.shape
        super().__init__(stored.folder, stored.split, (count, channels, height, width))
        self.stored = stored

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        """(N, C, H, W)."""
        return recoloured(self.stored.images, self.shape[1])

    def read(self, rows: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of some images (n, C, H, W)."""
        return np.array(recoloured(self.stored.read(rows), self.shape[1]))


def source_of(data: str, column: str | None) -> Source:
    """The source that ``data`` names, which may be an image file, too; a warning tells what of it is not read.

    Raises:
        ConfigError: ``column`` is given, and there are no columns.
        DataError: there is no such source, or it has no images.
    """
    path = existing(data)
    if path is not None and path.is_file() and path.suffix.lower() in SUFFIXES:
        return Source(data, "", 1, lambda: iter([Row(path.name, path, None, None)]))
    source = find_source(data)
    if column is not None and column != source.column:
        if source.with_column is None:
            raise ConfigError(f"--image-column {column} is for tables; --data {data} has no columns")
        source = source.with_column(column)
    if source.found.unused:
        warn(f"--data {data}: left out, as neither the training nor the hold-out split: {listed(source.found.unused)}")
    if lost := warned(source.found.left_out):
        warn(f"--data {data}: not read: {lost}")
    return source


def cached_scaling(fingerprint: str | None) -> Scaling | None:
    """How values of decoded images with this fingerprint became 8 bits; None where the cache does not have them."""
    if fingerprint is None:
        return None
    for meta in cache_folder().glob("*/meta.json"):
        with suppress(DamagedStoreError, OSError):
            record = Record.read(meta.parent)
            if record is not None and record.fingerprint == fingerprint:
                return record.scaling
    return None
