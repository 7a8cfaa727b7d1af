"""Decoding a source into a store: once, in parallel, into a folder that is written whole or not at all."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from io import BufferedWriter
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from numpy.typing import NDArray

from evae.console import console, progress
from evae.data.decode import BadImageError, decode
from evae.data.images import Split
from evae.data.rows import Row, Source, listed, read_content
from evae.data.sources import absolute
from evae.errors import DataError

_CHUNK = 256  # images per task
_MANY = 5000  # images for which starting processes, a second, is worth it


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The description of a store; None where there is no store or a damaged one."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        for split, count in meta["count"].items():
            size, *_ = [(folder / f"{split}{end}").stat().st_size for end in (".u8", "-labels.npy", "-names.json")]
            if size != count * math.prod(meta["image_shape"]):
                return None
        return meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def build_once(source: Source, size: int, crop: int | None, skip_bad: bool, folder: Path) -> dict[str, Any]:
    """``read_meta`` of a store that is built under a lock: of two processes one builds and the other waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        console.print("another process is decoding these images; waiting for it")
        lock.acquire()
    with lock:
        if meta := read_meta(folder):
            return meta
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        with TemporaryDirectory(".tmp", f"{folder.name}.", folder.parent, ignore_cleanup_errors=True) as temporary:
            meta = _build(source, size, crop, skip_bad, Path(temporary))
            os.replace(temporary, folder)
        return meta


def check_bad_images(bad: Sequence[str], skip_bad: bool) -> None:
    """Raise DataError if there are undecodable images, "name reason" of each, and they are not to be skipped."""
    if bad and not skip_bad:
        noun = "image" if len(bad) == 1 else "images"
        raise DataError(f"{len(bad)} bad {noun}: {listed(bad, '; ')} (use --on-bad-image skip to skip them)")


class _Image(NamedTuple):
    """What is known of a decoded image besides its pixels."""

    name: str
    label: int
    split: Split | None
    digest: bytes  # of its undecoded content


# The file of n images' pixels (n, 3, size, size), too large to be sent between processes, the images, whether all are
# grey, and "name reason" of each undecodable image.
_Chunk = tuple[Path, list[_Image], bool, list[str]]


class _Writer:
    """Appends the images of one split, with three channels; ``finish`` keeps one channel where all are grey."""

    def __init__(self, file: BufferedWriter) -> None:
        self.file, self.path = file, Path(file.name)
        self.images = list[_Image]()

    def add(self, image: _Image, pixels: NDArray[np.uint8]) -> None:
        self.file.write(pixels.data)
        self.images.append(image)

    def finish(self, size: int, grey: bool) -> None:
        self.file.close()
        if grey:
            one = self.path.with_suffix(".grey")
            with self.path.open("rb") as all_three, one.open("wb") as first:
                for _ in self.images:
                    first.write(all_three.read(3 * size * size)[: size * size])
            os.replace(one, self.path)
        stem = self.path.with_suffix("")
        np.save(f"{stem}-labels.npy", np.array([image.label for image in self.images], np.int64))
        Path(f"{stem}-names.json").write_text(json.dumps([image.name for image in self.images]))


def _build(source: Source, size: int, crop: int | None, skip_bad: bool, folder: Path) -> dict[str, Any]:
    fingerprint, grey, skipped = blake2b(source.key.encode() if source.stream else b"", digest_size=16), True, []
    first: tuple[Split, _Image, NDArray[np.uint8]] | None = None  # for a split that the split by content left empty
    splits_here: tuple[Split, ...] = ("holdout",) if source.stream else ("train", "holdout")
    with ExitStack() as files, progress() as bar:
        writers = {s: _Writer(files.enter_context((folder / f"{s}.u8").open("wb"))) for s in splits_here}
        task = bar.add_task(f"decoding {source.name}", total=source.count)
        for path, images, all_grey, bad in _decode_all(source, size, crop, folder):
            bar.advance(task, len(images) + len(bad))
            skipped += bad
            check_bad_images(skipped, skip_bad)
            grey = grey and all_grey
            pixels = np.fromfile(path, np.uint8).reshape(-1, 3, size, size)
            path.unlink()
            for image, its_pixels in zip(images, pixels, strict=True):
                by_content: Split = "holdout" if int.from_bytes(image.digest) % 10 == 0 else "train"  # one in ten
                split = image.split or by_content
                fingerprint.update(split.encode() + image.digest)
                if first is None and image.split is None:
                    first = split, image, its_pixels
                else:
                    writers[split].add(image, its_pixels)
        if first is not None:
            empty = [split for split, writer in writers.items() if not writer.images]
            writers[empty[0] if len(empty) == 1 else first[0]].add(*first[1:])
        for split, writer in writers.items():
            if not writer.images:
                why = f" ({len(skipped)} cannot be decoded: {listed(skipped, '; ')})" if skipped else ""
                raise DataError(f"--data {source.name} has no usable image for the {split} split{why}")
            writer.finish(size, grey)
    meta = {
        "source": absolute(source.name),
        "image_shape": [1 if grey else 3, size, size],
        "count": {split: len(writer.images) for split, writer in writers.items()},
        "class_names": source.class_names,
        "fingerprint": fingerprint.hexdigest(),
        "skipped": skipped,
        "transform": {"size": size, "crop": crop},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return meta


def _decode_all(source: Source, size: int, crop: int | None, folder: Path) -> Iterator[_Chunk]:
    """The images in order, decoded a few chunks ahead, by one process per available CPU."""
    # Much of Pillow is Python: threads decode small images no faster than one, but start faster than processes.
    rows = source.rows()
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    backend = "loky" if source.count >= _MANY else "threading"
    workers = Parallel(n_jobs=-1, backend=backend, batch_size=1, max_nbytes=None, return_as="generator")
    yield from workers(
        delayed(_decode_chunk)(chunk, size, crop, folder / f"{number}.chunk") for number, chunk in enumerate(chunks)
    )


def _decode_chunk(rows: list[Row], size: int, crop: int | None, path: Path) -> _Chunk:
    pixels = np.empty((len(rows), 3, size, size), np.uint8)
    images, grey, bad = list[_Image](), True, list[str]()
    for row in rows:
        try:
            content = read_content(row.payload)
            decoded = decode(content, size, crop)
        except BadImageError as error:
            bad.append(f"{ascii(row.name)[1:-1]} {error}")
            continue
        except DataError as error:
            raise DataError(f"image {row.name} {error}") from error
        pixels[len(images)] = decoded
        grey = grey and len(decoded) == 1
        raw = content if isinstance(content, bytes) else content.tobytes()
        images.append(_Image(row.name, row.label, row.split, blake2b(raw, digest_size=8).digest()))
    pixels[: len(images)].tofile(path)
    return path, images, grey, bad
