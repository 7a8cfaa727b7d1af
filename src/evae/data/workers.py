"""Decoding in parallel: chunks of images, by threads or by processes that end with the one that started them."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool
from numpy.typing import NDArray

from evae.data.decode import BadImageError, Channels, Decoder, Seen, UnreadableError
from evae.data.images import Split
from evae.data.labels import Label
from evae.data.levels import Levels, Scaling
from evae.data.rows import Reference, Row, Source, read_content
from evae.errors import DataError

_CHUNK = 256  # images per task at most
_BYTES = 2**26  # of a task's images before decoding, beyond a single one
_MANY = 5000  # images for which starting processes, a second, is worth it
_CROPPED = 2 / 3  # of an image's area: where less is kept, the account counts it


class Plan(NamedTuple):
    """How images are decoded."""

    size: int
    crop: int | None
    scaling: Scaling
    channels: Channels = "auto"


class Decoded(NamedTuple):
    """What is known of a decoded image besides its pixels."""

    name: str
    label: Label
    split: Split | None
    digest: bytes  # see ``decode.Decoder``


@dataclass
class Tally:
    """How many images are in colour, cropped by more than a third, transparent, converted to sRGB, read in part."""

    colour: int = 0
    cropped: int = 0
    transparent: int = 0
    profiled: int = 0
    partial: int = 0

    def count(self, seen: Seen) -> None:
        """One more image."""
        self.colour += seen.is_colour
        self.cropped += seen.kept < _CROPPED
        self.transparent += seen.is_transparent
        self.profiled += seen.is_profiled
        self.partial += seen.is_partial

    def add(self, other: "Tally") -> None:
        """Take in other images of the same data set."""
        for name, number in vars(other).items():
            setattr(self, name, getattr(self, name) + number)


class Chunk(NamedTuple):
    """Some images of a source, in its order, after decoding.

    Attributes:
        path: the file of their pixels (n, 3, size, size), too large to be sent between processes.
        images: what is known of each.
        bad: "name reason" of each undecodable image.
        unread: the files among them that cannot be read now.
        levels: their values.
        width: channels of the pixels, 3 of grey images, too.
        tally: how many images are of each kind.
    """

    path: Path
    images: list[Decoded]
    bad: list[str]
    unread: list[str]
    levels: Levels
    width: int
    tally: Tally

    def take(self, size: int) -> NDArray[np.uint8]:
        """The pixels (n, C, size, size), read from the file, which is deleted."""
        pixels = np.fromfile(self.path, np.uint8).reshape(-1, self.width or 3, size, size)
        self.path.unlink()
        return pixels


def _check_width(first: tuple[str, int], name: str, width: int) -> None:
    """Raise DataError unless an image has as many channels as the first one, a name and its width."""
    if first[1] != width:
        channels = [{3: "1 or 3"}.get(number, str(number)) for number in (first[1], width)]
        raise DataError(
            f"{first[0]} has {channels[0]} channels and {name} has {channels[1]}; all images of a data set need "
            "the same number (--channels grey reads the first page of a TIFF file alone)"
        )


def decode_all(source: Source, plan: Plan, folder: Path) -> Iterator[Chunk]:
    """The images in order, decoded a few chunks ahead, by one process per available CPU.

    Raises:
        DataError: an image cannot be used or has other channels than the first one, or a process was killed.
    """
    # Much of Pillow is Python: threads decode small images no faster than one, but start faster than processes.
    backend = "loky" if source.count >= _MANY else "threading"
    workers = Parallel(n_jobs=-1, backend=backend, batch_size=1, max_nbytes=None, return_as="generator")
    tasks = enumerate(_chunks(source.rows()))
    first: tuple[str, int] | None = None  # name and channels of the first image
    try:
        for chunk in workers(
            delayed(_decode_chunk)(rows, plan, folder / f"{number}.chunk", os.getpid()) for number, rows in tasks
        ):
            if chunk.images:
                first = first or (chunk.images[0].name, chunk.width)
                _check_width(first, chunk.images[0].name, chunk.width)
            yield chunk
    except BrokenProcessPool as error:
        raise DataError(
            "a process that decodes images was killed, as systems do where memory runs out; "
            "set LOKY_MAX_CPU_COUNT to a lower number of processes"
        ) from error


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in groups that take little memory."""
    chunk, size = list[Row](), 0
    for row in rows:
        chunk.append(row)
        size += len(row.payload) if isinstance(row.payload, bytes) else getattr(row.payload, "nbytes", 0)
        if len(chunk) == _CHUNK or size >= _BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _decode_chunk(rows: list[Row], plan: Plan, path: Path, parent: int) -> Chunk:
    if os.getpid() != parent:
        _end_with(parent)
    pixels = np.empty((len(rows), 3, plan.size, plan.size), np.uint8)
    images, bad, unread = list[Decoded](), list[str](), list[str]()
    decoder, tally, width = Decoder(plan.size, plan.crop, plan.scaling, plan.channels), Tally(), 0
    for row in rows:
        try:
            decoded = decoder(read_content(row.payload))
        except BadImageError as error:
            bad.append(f"{ascii(row.name)[1:-1]} {error}")
            if isinstance(error, UnreadableError):
                unread.append(_path(row))
            continue
        except DataError as error:
            raise DataError(f"image {row.name} {error}") from error
        own = 3 if len(decoded) == 1 else len(decoded)
        if not images and own != 3:
            pixels = np.empty((len(rows), own, plan.size, plan.size), np.uint8)
        width = width or own
        _check_width((images[0].name if images else row.name, width), row.name, own)
        pixels[len(images)] = decoded
        tally.count(decoder.last)
        images.append(Decoded(row.name, row.label, row.split, decoder.last.digest))
    with path.open("wb") as file:
        file.write(pixels[: len(images)].data)
    return Chunk(path, images, bad, unread, decoder.levels, width, tally)


def _path(row: Row) -> str:
    """The file of a row, for another attempt."""
    if isinstance(row.payload, Reference):
        return os.path.join(row.payload.roots[0] if row.payload.roots else "", row.payload.path)
    return str(row.payload)


@cache
def _end_with(parent: int) -> None:
    """Let this process end soon after its parent has, which may be killed without a chance to say so."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
