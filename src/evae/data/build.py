"""Decoding a source into a store: once, in parallel, into a folder that is written whole or not at all."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from numpy.typing import NDArray

from evae.console import console, progress
from evae.data.decode import BadImageError, decode
from evae.data.images import Split
from evae.data.rows import Row, Source, listed
from evae.data.sources import absolute
from evae.errors import DataError

_CHUNK = 256  # images per task
_MANY = 5000  # images for which starting processes, a second, is worth it


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The description of a store; None where there is no store or a damaged one."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        pixels = math.prod(meta["image_shape"])
        for split, count in meta["count"].items():
            others = (folder / f"{split}-{name}" for name in ("labels.npy", "names.json"))
            if (folder / f"{split}.u8").stat().st_size != count * pixels or not all(map(Path.exists, others)):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta


def build_once(source: Source, size: int, crop: int | None, skip_bad: bool, folder: Path) -> dict[str, Any]:
    """Build the store in ``folder`` under a lock: of two processes one builds and the other waits.

    Returns:
        As ``read_meta``.

    Raises:
        DataError: a split has no decodable image, or an image is undecodable and ``skip_bad`` is false.
    """
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
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            meta = _build(source, size, crop, skip_bad, temporary)
            os.replace(temporary, folder)
            return meta
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_bad_images(bad: Sequence[str], skip_bad: bool) -> None:
    """Raise DataError if there are undecodable images, "name reason" of each, and they are not to be skipped."""
    if bad and not skip_bad:
        noun = "image" if len(bad) == 1 else "images"
        raise DataError(f"{len(bad)} bad {noun}: {listed(bad, '; ')} (use --on-bad-image skip to skip them)")


@dataclass(frozen=True)
class _Decoded:
    """Some images in order, always with three channels.

    Attributes:
        path: file of their pixels, which are too many to be sent between processes.
        size: height and width.
        grey: whether all images are.
        names, labels, splits: of each image.
        digests: of the undecoded content.
        by_content: whether the digest chose the split, so that an image is in the same split at every size.
        bad: "name reason" of each undecodable image.
    """

    path: Path
    size: int
    grey: bool
    names: list[str]
    labels: list[int]
    splits: list[Split]
    digests: list[bytes]
    by_content: bool
    bad: list[str]

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(N, 3, size, size); the file is deleted after the first read."""
        pixels = np.fromfile(self.path, np.uint8).reshape(len(self.names), 3, self.size, self.size)
        self.path.unlink()
        return pixels


class _Writer:
    """Appends the images of one split, with three channels; ``finish`` keeps one channel where all are grey."""

    def __init__(self, folder: Path, split: Split) -> None:
        self.path, self.prefix = folder / f"{split}.u8", str(folder / split)
        self.file = self.path.open("wb")
        self.names: list[str] = []
        self.labels: list[int] = []

    def add(self, images: _Decoded, chosen: list[int]) -> None:
        self.file.write(images.pixels[chosen].data)
        self.names += [images.names[i] for i in chosen]
        self.labels += [images.labels[i] for i in chosen]

    def close(self) -> None:
        self.file.close()

    def finish(self, size: int, grey: bool) -> None:
        self.close()
        if grey:
            three = np.memmap(self.path, np.uint8, mode="r", shape=(len(self.names), 3, size, size))
            one = self.path.with_suffix(".grey")
            with one.open("wb") as file:
                for start in range(0, len(three), 4096):
                    file.write(three[start : start + 4096, :1].tobytes())
            del three
            os.replace(one, self.path)
        np.save(f"{self.prefix}-labels.npy", np.array(self.labels, np.int64))
        Path(f"{self.prefix}-names.json").write_text(json.dumps(self.names))


def _build(source: Source, size: int, crop: int | None, skip_bad: bool, folder: Path) -> dict[str, Any]:
    fingerprint, grey, skipped = blake2b(source.key.encode() if source.stream else b"", digest_size=16), True, []
    kept_back: _Decoded | None = None  # its first image goes to the split that a split by content left empty
    splits_here: tuple[Split, ...] = ("holdout",) if source.stream else ("train", "holdout")
    with ExitStack() as files, progress() as bar:
        writers = {split: files.enter_context(closing(_Writer(folder, split))) for split in splits_here}
        task = bar.add_task(f"decoding {source.name}", total=source.count)
        for images in _decode_all(source, size, crop, folder):
            bar.advance(task, len(images.names) + len(images.bad))
            skipped += images.bad
            check_bad_images(skipped, skip_bad)
            if not images.names:
                images.path.unlink()
                continue
            grey = grey and images.grey
            splits = images.splits
            fingerprint.update(b"".join(s.encode() + d for s, d in zip(splits, images.digests, strict=True)))
            first = 0
            if kept_back is None and images.by_content:
                kept_back, first = images, 1
            for split, writer in writers.items():
                writer.add(images, [i for i in range(first, len(splits)) if splits[i] == split])
        if kept_back is not None:
            empty = [split for split, writer in writers.items() if not writer.names]
            writers[empty[0] if len(empty) == 1 else kept_back.splits[0]].add(kept_back, [0])
        for split, writer in writers.items():
            if not writer.names:
                bad = f" ({len(skipped)} cannot be decoded: {listed(skipped, '; ')})" if skipped else ""
                raise DataError(f"--data {source.name} has no usable image for the {split} split{bad}")
            writer.finish(size, grey)
    meta = {
        "source": absolute(source.name),
        "image_shape": [1 if grey else 3, size, size],
        "count": {split: len(writer.names) for split, writer in writers.items()},
        "class_names": source.class_names,
        "fingerprint": fingerprint.hexdigest(),
        "skipped": skipped,
        "transform": {"size": size, "crop": crop},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return meta


def _decode_all(source: Source, size: int, crop: int | None, folder: Path) -> Iterator[_Decoded]:
    """The images in order, decoded a few chunks ahead, by one process per available CPU.

    Much of Pillow is Python, so threads decode small images no faster than one thread; but few images are decoded
    before processes have started.
    """
    rows = source.rows()
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    backend = "loky" if source.count >= _MANY else "threading"
    workers = Parallel(n_jobs=-1, backend=backend, batch_size=1, max_nbytes=None, return_as="generator")
    yield from workers(
        delayed(_decode_chunk)(chunk, size, crop, folder / f"{number}.chunk") for number, chunk in enumerate(chunks)
    )


def _decode_chunk(rows: list[Row], size: int, crop: int | None, path: Path) -> _Decoded:
    pixels = np.empty((len(rows), 3, size, size), np.uint8)
    good, grey, digests, bad = list[Row](), True, list[bytes](), list[str]()
    for row in rows:
        try:
            content = row.content()
            image = decode(content, size, crop)
        except BadImageError as error:
            bad.append(f"{ascii(row.name)[1:-1]} {error}")
            continue
        except DataError as error:
            raise DataError(f"image {row.name} {error}") from error
        pixels[len(good)] = image
        grey = grey and len(image) == 1
        good.append(row)
        raw = content if isinstance(content, bytes) else content.tobytes()
        digests.append(blake2b(raw, digest_size=8).digest())
    pixels[: len(good)].tofile(path)
    return _Decoded(
        path,
        size,
        grey,
        names=[row.name for row in good],
        labels=[row.label for row in good],
        splits=[row.split or _split_of(digest) for row, digest in zip(good, digests, strict=True)],
        digests=digests,
        by_content=rows[0].split is None,
        bad=bad,
    )


def _split_of(digest: bytes) -> Split:
    """One image in ten is held out, chosen by content."""
    return "holdout" if int.from_bytes(digest) % 10 == 0 else "train"
