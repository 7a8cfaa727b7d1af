"""Decoding in parallel: chunks of images, by threads or by processes that end with the one that started them."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import BrokenProcessPool

from evae.data.decode import BadImageError, Decoder, UnreadableError
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


class Decoded(NamedTuple):
    """What is known of a decoded image besides its pixels."""

    name: str
    label: Label
    split: Split | None
    digest: bytes  # see ``decode.Decoder``


class Chunk(NamedTuple):
    """Some images of a source, in its order, after decoding.

    Attributes:
        path: the file of their pixels (n, 3, size, size), too large to be sent between processes.
        images: what is known of each.
        bad: "name reason" of each undecodable image.
        unread: the files among them that cannot be read now.
        levels: their values.
        colour: how many are in colour.
        cropped: how many lost more than a third.
    """

    path: Path
    images: list[Decoded]
    bad: list[str]
    unread: list[str]
    levels: Levels
    colour: int
    cropped: int


def decode_all(source: Source, plan: Plan, folder: Path) -> Iterator[Chunk]:
    """The images in order, decoded a few chunks ahead, by one process per available CPU.

    Raises:
        DataError: an image cannot be used, or a process was killed.
    """
    # Much of Pillow is Python: threads decode small images no faster than one, but start faster than processes.
    backend = "loky" if source.count >= _MANY else "threading"
    workers = Parallel(n_jobs=-1, backend=backend, batch_size=1, max_nbytes=None, return_as="generator")
    tasks = enumerate(_chunks(source.rows()))
    try:
        yield from workers(
            delayed(_decode_chunk)(chunk, plan, folder / f"{number}.chunk", os.getpid()) for number, chunk in tasks
        )
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
    decoder, colour, cropped = Decoder(plan.size, plan.crop, plan.scaling), 0, 0
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
        pixels[len(images)] = decoded
        colour += len(decoded) > 1
        cropped += decoder.kept < _CROPPED
        images.append(Decoded(row.name, row.label, row.split, decoder.digest))
    with path.open("wb") as file:
        file.write(pixels[: len(images)].data)
    return Chunk(path, images, bad, unread, decoder.levels, colour, cropped)


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
