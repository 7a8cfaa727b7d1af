"""Decoded images: made once, in parallel, then memory-mapped. A store is a folder written whole or not at all."""

import errno
import json
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from filelock import FileLock, Timeout
from joblib import Parallel, delayed
from numpy.typing import NDArray

from evae.console import console, progress, warn
from evae.data.batches import batch_indices
from evae.data.decode import BadImageError, decode
from evae.data.rows import Row, Source, Split
from evae.data.sources import find_source
from evae.data.streams import StreamedImages
from evae.errors import DataError

OnBadImage = Literal["skip", "error"]


@dataclass(frozen=True)
class ImageOptions:
    """How images are read.

    Args:
        image_size: resize images to this height and width (default: 64 for folders and images above 32
            pixels, else 32).
        crop: side of the centre crop in the images' own pixels (default: the largest square; celeba: 140).
        on_bad_image: skip images that cannot be decoded with a warning, or stop with an error.
    """

    image_size: int | None = None
    crop: int | None = None
    on_bad_image: OnBadImage = "skip"


_VERSION = 2  # of the layout below; another version is another folder
_CHUNK = 256  # images decoded in one go
_MANY = 5000  # images that are worth the second in which processes start
_LARGEST = 4096  # pixels
_NAMED = 5  # bad images named in a warning


@dataclass(frozen=True)
class ImageSet:
    """One split: 8-bit images (N, C, H, W), labels (N,) with -1 for none, and names (file or row number)."""

    folder: Path
    split: Split
    shape: tuple[int, int, int, int]
    bad: ClassVar[frozenset[int]] = frozenset()  # as of StreamedImages: those were left out

    def __len__(self) -> int:
        return self.shape[0]

    def batch_indices(self, seed: int, epoch: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """Of the images of one step."""
        return batch_indices(seed, epoch, step, len(self), batch_size)

    def prepare(self, seed: int, epoch: int, step: int, batch_size: int) -> None:
        """Nothing: all images are here."""

    def rest(self) -> None:
        """Nothing: none is on its way."""

    @cached_property
    def images(self) -> NDArray[np.uint8]:
        return np.memmap(self.folder / f"{self.split}.u8", np.uint8, mode="r", shape=self.shape)

    def read(self, chosen: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of some images, after which the memory of the pages they were on is handed back.

        The system keeps those pages as long as it has room; a process that reads many would seem to need all of it.
        """
        images = np.array(self.images[chosen])
        mapped: object = self.images.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
        return images

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = np.load(self.folder / f"{self.split}-labels.npy")
        return labels

    @cached_property
    def names(self) -> list[str]:
        names: list[str] = json.loads((self.folder / f"{self.split}-names.json").read_text())
        return names


Images = ImageSet | StreamedImages


@dataclass(frozen=True)
class Store:
    """Images of one source at one size.

    Attributes:
        source: as the user named it.
        train, holdout: the two splits.
        image_shape: (C, H, W).
        class_names: names of the labels; empty where they have none.
        fingerprint: digest of the decoded images and their split; where they are streamed, of
            those held out and of the names, sizes and times of all files.
        skipped: "name reason" of each image left out.
        transform: what was done to the images, {"size", "crop"}.
    """

    source: str
    train: Images
    holdout: ImageSet
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...]
    transform: dict[str, int | None]


def cache_folder() -> Path:
    """$EVAE_CACHE, or evae in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evae"
    return Path(os.environ.get("EVAE_CACHE", default))


def open_store(
    data: str, image_size: int | None = None, crop: int | None = None, on_bad_image: OnBadImage = "skip"
) -> Store:
    """The decoded images of ``data``, decoding them first if that was not done before.

    Args:
        data: see ``find_source``.
        image_size: height and width to resize to; None: the source's own choice.
        crop: side of the centre crop in the images' pixels; None: the source's own choice, else the shorter side.
        on_bad_image: "skip" leaves out images that cannot be decoded, with a warning; "error" stops.

    Raises:
        DataError: there are no such images, or not enough that can be used.
    """
    check_transform(image_size, crop)
    source = find_source(data)
    size = source.size if image_size is None else image_size
    crop = source.crop if crop is None else crop
    key = blake2b(json.dumps([_VERSION, source.key, size, crop]).encode(), digest_size=16).hexdigest()
    folder = cache_folder() / key
    try:
        meta = _read_meta(folder) or _build_once(source, size, crop, on_bad_image, folder)
    except OSError as error:
        hint = "; free some space or set EVAE_CACHE to another disk" if error.errno == errno.ENOSPC else ""
        raise DataError(
            f"the image cache in {folder.parent} cannot be used ({error.strerror or error}){hint}"
        ) from error
    store = _as_store(source, folder, meta, on_bad_image)
    if source.unused:
        listed = _listed(source.unused, ", ")
        warn(f"--data {data}: left out, as neither the training nor the hold-out split: {listed}")
    if store.skipped:
        _report_skipped(store.skipped, on_bad_image)
    return store


def check_transform(image_size: int | None, crop: int | None) -> None:
    """Raise DataError unless images can be cropped and resized so; None is the source's own choice."""
    if image_size is not None and not 1 <= image_size <= _LARGEST:
        raise DataError(f"the image size must be from 1 to {_LARGEST}, not {image_size}")
    if crop is not None and crop < 1:
        raise DataError(f"the crop must be positive, not {crop}")


def _read_meta(folder: Path) -> dict[str, Any] | None:
    """What a store says of itself; None where there is none, or a damaged one."""
    try:
        meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
        pixels = math.prod(meta["image_shape"])
        whole = all((folder / f"{s}.u8").stat().st_size == n * pixels for s, n in meta["count"].items())
        whole = whole and all(
            (folder / f"{s}-{x}").exists() for s in meta["count"] for x in ("labels.npy", "names.json")
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return meta if whole else None


def _as_store(source: Source, folder: Path, meta: dict[str, Any], on_bad_image: OnBadImage) -> Store:
    shape = tuple(meta["image_shape"])
    here = {split: ImageSet(folder, split, (count, *shape)) for split, count in meta["count"].items()}
    stream = source.stream
    return Store(
        source=source.name,
        train=stream(shape, meta["transform"]["crop"], on_bad_image == "skip") if stream else here["train"],
        holdout=here["holdout"],
        image_shape=shape,
        class_names=tuple(meta["class_names"]),
        fingerprint=meta["fingerprint"],
        skipped=tuple(meta["skipped"]),
        transform=meta["transform"],
    )


def _report_skipped(skipped: tuple[str, ...], on_bad_image: OnBadImage) -> None:
    named = _listed(skipped, "; ")
    noun = "image" if len(skipped) == 1 else "images"
    if on_bad_image == "error":
        raise DataError(f"{len(skipped)} bad {noun}: {named} (--on_bad_image skip leaves them out)")
    warn(f"{len(skipped)} bad {noun} skipped: {named}")


def _listed(names: tuple[str, ...], separator: str) -> str:
    return separator.join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])


# Building ----------------------------------------------------------------------------------------------------


def _build_once(source: Source, size: int, crop: int | None, on_bad_image: OnBadImage, folder: Path) -> dict[str, Any]:
    """Build the store under a lock: of two processes that start together one builds and the other waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        console.print("another process is decoding these images; waiting for it")
        lock.acquire()
    with lock:
        if meta := _read_meta(folder):
            return meta
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            meta = _build(source, size, crop, on_bad_image, temporary)
            os.replace(temporary, folder)
            return meta
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@dataclass(frozen=True)
class _Decoded:
    """Some images in their order, always as three channels.

    Attributes:
        path: of their pixels, which are too many to be sent from process to process.
        size: of the images.
        grey: whether all of them are.
        names, labels, splits: of each.
        digests: of the undecoded content.
        by_content: whether that chose the split, so that an image is held out at every size or at none.
        bad: "name reason" of those that are left out.
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
        """(N, 3, size, size); can be read once."""
        pixels = np.fromfile(self.path, np.uint8).reshape(len(self.names), 3, self.size, self.size)
        self.path.unlink()
        return pixels


class _Writer:
    """Appends the images of one split, of three channels; ``finish`` reduces them to one where all are grey."""

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


def _build(source: Source, size: int, crop: int | None, on_bad_image: OnBadImage, folder: Path) -> dict[str, Any]:
    fingerprint, grey, skipped = blake2b(source.key.encode() if source.stream else b"", digest_size=16), True, []
    kept_back: _Decoded | None = None  # with the first image, lest a split by content leave one side empty
    splits_here: tuple[Split, ...] = ("holdout",) if source.stream else ("train", "holdout")
    with ExitStack() as files, progress() as bar:
        writers = {split: files.enter_context(closing(_Writer(folder, split))) for split in splits_here}
        task = bar.add_task(f"decoding {source.name}", total=source.count)
        for images in _decode_all(source, size, crop, folder):
            bar.advance(task, len(images.names) + len(images.bad))
            skipped += images.bad
            if images.bad and on_bad_image == "error":
                _report_skipped(tuple(skipped), on_bad_image)
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
                bad = f" ({len(skipped)} cannot be decoded: {'; '.join(skipped[:_NAMED])})" if skipped else ""
                raise DataError(f"--data {source.name} has no usable image for the {split} split{bad}")
            writer.finish(size, grey)
    meta = {
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
    """The images in order, a few chunks ahead, in as many processes as there are processors for this one.

    Much of Pillow is Python, so that threads decode small images no faster than one thread; but few images are done
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
    """One image in ten is held out."""
    return "holdout" if int.from_bytes(digest) % 10 == 0 else "train"
