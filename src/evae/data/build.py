"""Decoding a source into a store: once, in parallel, into a folder that is written whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from io import BufferedWriter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from rich.filesize import decimal

from evae.console import console, progress
from evae.data.account import Account, LeftOut
from evae.data.decode import Channels
from evae.data.images import Split
from evae.data.labels import NO_LABEL, encode
from evae.data.levels import Levels, Scaling, too_dark
from evae.data.record import DamagedStoreError, FileRecord, Record
from evae.data.rows import Source, listed
from evae.data.sources import absolute
from evae.data.workers import Decoded, Plan, Tally, decode_all
from evae.errors import DataError
from evae.files import replace, temporary_folder


def usable(folder: Path, quiet: bool = False) -> Record | None:
    """The record of a store; None where there is none to be used, with a sentence where it has to be made again."""
    try:
        record = Record.read(folder)
    except DamagedStoreError as error:
        why = f"the decoded images in {folder} are damaged ({error}); decoding them again"
    else:
        if record is None or not any(map(_readable, record.unread)):
            return record
        why = "some files that could not be read before can be read now; decoding again"
    if not quiet:
        console.print(why, soft_wrap=True)
    return None


def _readable(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
        return True
    except (OSError, ValueError):
        return False


def build_once(folder: Path, build: Callable[[Path], Record]) -> Record:
    """``usable`` of a store that is built under a lock: of two processes one builds and the other waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        console.print("another process is decoding these images; waiting for it")
        lock.acquire()
    with lock:
        if record := usable(folder, quiet=True):
            return record
        shutil.rmtree(folder, ignore_errors=True)  # damaged
        for leftover in folder.parent.glob(f"{folder.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(leftover)
        with temporary_folder(folder) as temporary:
            record = build(temporary)
            replace(temporary, folder)
    return record


def check_bad_images(bad: Sequence[str], skip_bad: bool, noun: str = "image") -> None:
    """Raise DataError if there are undecodable images, "name reason" of each, and they are not to be skipped."""
    if bad and not skip_bad:
        plural = "" if len(bad) == 1 else "s"
        raise DataError(f"{len(bad)} bad {noun}{plural}: {listed(bad, '; ')} (use --on-bad-image skip to skip them)")


class _Writer:
    """Appends the images of one split, grey ones with three channels; ``finish`` keeps one where all are grey."""

    def __init__(self, file: BufferedWriter) -> None:
        self.file, self.path = file, Path(file.name)
        self.images = list[Decoded]()
        self.brightest = 0

    def add(self, image: Decoded, pixels: NDArray[np.uint8]) -> None:
        self.file.write(pixels.data)
        self.images.append(image)
        self.brightest = max(self.brightest, int(pixels.max()))

    def finish(self, size: int, grey: bool, labels: NDArray[np.int64]) -> dict[str, FileRecord]:
        """Write all that belongs to the split; the records of its files by name."""
        self.file.close()
        if grey:
            one = self.path.with_suffix(".grey")
            with self.path.open("rb") as all_three, one.open("wb") as first:
                for _ in self.images:
                    first.write(all_three.read(3 * size * size)[: size * size])
            os.replace(one, self.path)
        stem = self.path.with_suffix("")
        np.save(f"{stem}-labels.npy", labels)
        Path(f"{stem}-names.json").write_text(json.dumps([image.name for image in self.images]))
        ends = (".u8", "-labels.npy", "-names.json")
        return {f"{stem.name}{end}": FileRecord.of(Path(f"{stem}{end}")) for end in ends}


class _Pass(NamedTuple):
    """What one pass over all images of a source has found."""

    writers: dict[Split, _Writer]
    fingerprint: str
    skipped: list[str]
    unread: list[str]
    levels: Levels
    width: int
    tally: Tally


def build_images(
    source: Source, size: int, crop: int | None, channels: Channels, skip_bad: bool, folder: Path
) -> Record:
    """Decode the images of a source into a folder, and write its record.

    Raises:
        DataError: they cannot be used, or do not fit on the disk.
    """
    _check_space(source, size, folder)
    scaling = Scaling()
    found = _decode(source, Plan(size, crop, scaling, channels), skip_bad, folder)
    wanted = found.levels.scaling(source.name)
    if wanted != scaling:  # known only after all images were seen
        scaling = wanted
        found = _decode(source, Plan(size, crop, scaling, channels), skip_bad, folder)
    for split, writer in found.writers.items():
        if not writer.images:
            skipped = found.skipped
            why = f" ({len(skipped)} cannot be decoded: {listed(skipped, '; ')})" if skipped else ""
            raise DataError(f"--data {source.name} has no usable image for the {split} split{why}")
    images = [image for writer in found.writers.values() for image in writer.images]
    labels, class_names = encode([image.label for image in images], source.class_names)
    files, start = dict[str, FileRecord](), 0
    is_grey = found.width == 3 and channels != "rgb" and (channels == "grey" or not found.tally.colour)
    number = 1 if is_grey else found.width
    for writer in found.writers.values():
        files |= writer.finish(size, is_grey, labels[start : start + len(writer.images)])
        start += len(writer.images)
    record = Record(
        source=absolute(source.name),
        image_shape=(number, size, size),
        count={split: len(writer.images) for split, writer in found.writers.items()},
        class_names=class_names,
        fingerprint=found.fingerprint,
        skipped=tuple(found.skipped),
        unread=tuple(found.unread),
        transform={"size": size, "crop": crop},
        scaling=scaling,
        account=_account(source, found, labels, class_names, scaling, channels, number),
        files=files,
    )
    record.write(folder)
    return record


def _check_space(source: Source, size: int, folder: Path) -> None:
    """Raise DataError where the decoded images do not fit on the disk."""
    needed, free = source.count * 3 * size**2, shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"the image cache in {folder.parent} needs {decimal(needed)} for {source.count:,} images of {source.name} "
            f"and has {decimal(free)}; free some space or set EVAE_CACHE to another disk"
        )


def _decode(source: Source, plan: Plan, skip_bad: bool, folder: Path) -> _Pass:
    """Decode all images into one file per split."""
    fingerprint = blake2b(source.key.encode() if source.stream else b"", digest_size=16)
    if plan.scaling.bytes != 1:
        fingerprint.update(b"0 and 1")
    if plan.channels != "auto":
        fingerprint.update(plan.channels.encode())
    skipped, unread, levels, tally = list[str](), list[str](), Levels(), Tally()
    width = 0  # channels of the images
    first: tuple[Split, Decoded, NDArray[np.uint8]] | None = None  # for a split that the split by content left empty
    splits_here: tuple[Split, ...] = ("holdout",) if source.stream else ("train", "holdout")
    with ExitStack() as files, progress() as bar:
        writers = {s: _Writer(files.enter_context((folder / f"{s}.u8").open("wb"))) for s in splits_here}
        task = bar.add_task(f"decoding {source.name}", total=source.count)
        for chunk in decode_all(source, plan, folder):
            bar.advance(task, len(chunk.images) + len(chunk.bad))
            skipped += chunk.bad
            unread += chunk.unread
            check_bad_images(skipped, skip_bad)
            levels.add(chunk.levels)
            tally.add(chunk.tally)
            width = width or chunk.width
            for image, its_pixels in zip(chunk.images, chunk.take(plan.size), strict=True):
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
    return _Pass(writers, fingerprint.hexdigest(), skipped, unread, levels, width or 3, tally)


def _account(
    source: Source,
    found: _Pass,
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    scaling: Scaling,
    channels: Channels,
    number: int,
) -> Account:
    """What was found in a source."""
    codes, numbers = np.unique(labels[labels != NO_LABEL], return_counts=True)
    names = [class_names[code] if code < len(class_names) else str(code) for code in codes.tolist()]
    digests = [np.array([int.from_bytes(i.digest) for i in w.images], np.uint64) for w in found.writers.values()]
    dark = too_dark({split: writer.brightest for split, writer in found.writers.items()})
    about = source.found
    many = [f"the labels from {about.labels_from} have too many values for classes"] if _lost(found, labels) else []
    return Account(
        source=source.name,
        files=about.files,
        left_out=left_out(source, found.skipped),
        splits={split: len(writer.images) for split, writer in found.writers.items()},
        splits_from=about.splits_from,
        labels_from=about.labels_from if names else "",
        classes=dict(zip(names, numbers.tolist(), strict=True)),
        unlabelled=int((labels == NO_LABEL).sum()),
        values=found.levels.described(scaling),
        channels=number,
        colour=found.tally.colour if number in (3, 4) else 0,
        cropped=found.tally.cropped,
        duplicates=int(np.isin(digests[1], digests[0]).sum()) if len(digests) == 2 else 0,
        notes=(*about.notes, *_notes(found, channels, number)),
        warnings=(*about.doubts, *filter(None, [dark]), *many),
    )


def _notes(found: _Pass, channels: Channels, number: int) -> Iterator[str]:
    """What was done to colours, and what is lost of values and channels."""
    tally, total = found.tally, sum(len(writer.images) for writer in found.writers.values())
    if loss := found.levels.loss():
        yield f"values: {loss}"
    if tally.profiled:
        yield f"colours: {tally.profiled:,} of {total:,} images converted to sRGB by their ICC profiles"
    if number == 4 and channels == "rgba":
        none = "; alpha is 255 everywhere, so --channels rgba is of no use" if not tally.transparent else ""
        yield f"alpha: {tally.transparent:,} of {total:,} images are transparent{none}"
    elif tally.transparent:
        yield f"alpha: {tally.transparent:,} of {total:,} images laid over white; --channels rgba keeps alpha"
    if tally.partial:
        yield (
            f"channels: {tally.partial:,} of {total:,} images have channels or pages that are not read; grey pages "
            "and .npy arrays can have any number"
        )


def _lost(found: _Pass, labels: NDArray[np.int64]) -> bool:
    """Whether there are labels of which none became a class."""
    given = any(i.label not in (None, NO_LABEL) for writer in found.writers.values() for i in writer.images)
    return given and bool((labels == NO_LABEL).all())


def left_out(source: Source, skipped: Sequence[str]) -> tuple[LeftOut, ...]:
    """All that is not read of a source."""
    unused, entries = source.found.unused, list(source.found.left_out)
    if unused:
        entries.append(LeftOut("parts that are neither the training nor the hold-out split", len(unused), unused[0]))
    if skipped:
        entries.append(LeftOut(f"bad {source.noun}s", len(skipped), skipped[0]))
    return tuple(entries)
