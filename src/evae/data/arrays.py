"""Images or rows of numbers from numpy files: .npy with one array, .npz with several."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from math import prod
from pathlib import Path
from typing import Any
from zipfile import ZipFile, is_zipfile

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from evae.data.account import LeftOut
from evae.data.labels import Label, as_label
from evae.data.numbers import BY_CONTENT as ROW_BY_CONTENT
from evae.data.numbers import array_source
from evae.data.rows import BY_CONTENT, Findings, Row, Source, existing, is_bomb, listed, listing_key, natural_size
from evae.data.splits import choose, words
from evae.errors import DataError, first_line

_LABELS = {"y", "label", "labels", "mask", "masks"}
_MAX_LOADED = 2**31  # bytes of an array that is read whole
_MAX_IMAGE = 2**28  # bytes of one image


@dataclass(frozen=True)
class _Member:
    """An array of a file, known by its header and read when it is needed."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows: Callable[[], Iterator[NDArray[Any]]]  # one after the other, with little memory
    load: Callable[[], NDArray[Any]]

    @property
    def may_be_images(self) -> bool:
        """(N, H, W), (N, H, W, C) or (N, C, H, W) of numbers."""
        return len(self.shape) in (3, 4) and self.dtype.kind in "biuf"

    @property
    def may_be_rows(self) -> bool:
        """(N, F) of numbers."""
        return len(self.shape) == 2 and self.dtype.kind in "biuf" and self.shape[1] > 0


def _numbers(
    data: str, path: Path, members: dict[str, _Member], tables: dict[str, _Member], left_out: list[LeftOut]
) -> Source:
    """The arrays of rows, or those of them that are named train and test."""
    splits = choose(tables)
    if not splits and len(tables) > 1:
        raise DataError(
            f"--data {data} has several arrays of numbers ({', '.join(tables)}), none of them named train and test"
        )
    chosen = {name: tables[name] for name in splits or tables}
    labels = {name: _labels_name(members, name) for name in chosen}
    used = {*chosen, *filter(None, labels.values())}
    if unused := [name for name in members if name not in used]:
        left_out = [*left_out, LeftOut("arrays that are neither rows nor their labels", len(unused), unused[0])]
    found = Findings(
        files={f"rows of {name or 'the array'} ({member.dtype})": member.shape[0] for name, member in chosen.items()},
        left_out=tuple(left_out),
        splits_from=f"the arrays {listed(list(splits))}" if splits else ROW_BY_CONTENT,
        labels_from=listed(sorted(filter(None, labels.values()))),
    )
    return array_source(
        data,
        f"arrays {listing_key([path], path.parent)}",
        {name: member.load for name, member in chosen.items()},
        splits,
        lambda name: _read_labels(members, labels[name], members[name].shape[0]),
        sum(member.shape[0] for member in chosen.values()),
        found,
    )


def arrays(data: str) -> Source | None:
    """Arrays of a .npz or .npy file, with splits and labels where their names say so.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W); where there are none, arrays (N, F) are rows of numbers.
    """
    path = existing(data)
    if path is None or not path.is_file() or path.suffix.lower() not in (".npz", ".npy"):
        return None
    members, left_out = _members(data, path)
    own = {name: member for name, member in members.items() if not _LABELS & set(words(name))}
    images = {name: member for name, member in own.items() if member.may_be_images}
    if not images and (tables := {name: member for name, member in own.items() if member.may_be_rows}):
        return _numbers(data, path, members, tables, left_out)
    if not images:
        shapes = ", ".join(f"{name or 'array'} {member.shape}" for name, member in members.items())
        raise DataError(
            f"--data {data} has no array of images, (N, H, W) or (N, H, W, C), nor of rows of numbers, (N, F); "
            f"it has {shapes or 'none'}"
        )
    splits = choose(images)
    if not splits and len(images) > 1:
        raise DataError(
            f"--data {data} has several arrays of images ({', '.join(images)}), none of them named train and test"
        )
    chosen = {name: _channels_last(data, images[name]) for name in splits or images}
    labels = {name: _labels_name(members, name) for name in chosen}

    def rows() -> Iterator[Row]:
        number = count()
        for name, to_image in chosen.items():
            codes = _read_labels(members, labels[name], images[name].shape[0])
            for image, code in zip(images[name].rows(), codes, strict=True):
                yield Row(str(next(number)), to_image(image), code, splits.get(name))

    total = sum(images[name].shape[0] for name in chosen)
    if not total:
        raise DataError(f"--data {data} has no images")
    used = {*chosen, *labels.values()}
    unused = [name for name in members if name not in used and name not in images]
    if unused:
        left_out = [*left_out, LeftOut("arrays that are neither images nor their labels", len(unused), unused[0])]
    notes = [_channels_note(images[name].shape, data) for name in chosen]
    found = Findings(
        files={f"images of {name or 'the array'} ({images[name].dtype})": images[name].shape[0] for name in chosen},
        left_out=tuple(left_out),
        unused=tuple(name for name in images if name not in chosen),
        splits_from=f"the arrays {listed(list(splits))}" if splits else BY_CONTENT,
        labels_from=listed(sorted(filter(None, labels.values()))),
        notes=tuple(dict.fromkeys(filter(None, notes))),
    )
    key = f"arrays {listing_key([path], path.parent)}"
    return Source(data, key, total, rows, size=natural_size(rows()), found=found)


def _members(data: str, path: Path) -> tuple[dict[str, _Member], list[LeftOut]]:
    """The arrays by name, and what cannot be read without unpickling."""
    try:
        if path.suffix.lower() == ".npy" or not is_zipfile(path):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return {"": _Member(array.shape, array.dtype, lambda: iter(array), lambda: array)}, []
        with ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            members = {name.removesuffix(".npy"): _packed(path, archive, name) for name in names}
    except Exception as error:  # of many kinds: damage of the zip or of a header, sizes beyond all memory
        raise DataError(f"--data {data} is no array file that can be read ({first_line(error)})") from error
    pickled = [name for name, member in members.items() if member is None]
    left_out = (
        [LeftOut("pickled arrays, which are never opened", len(pickled), pickled[0], lost=False)] if pickled else []
    )
    return {name: member for name, member in members.items() if member is not None}, left_out


def _packed(path: Path, archive: ZipFile, name: str) -> _Member | None:
    """An array of a .npz file; None where it would have to be unpickled."""
    with archive.open(name) as file:
        shape, fortran, dtype = _header(file)
        size, start = prod(shape) * dtype.itemsize, file.tell()
    if dtype.hasobject:
        return None
    info = archive.getinfo(name)
    if info.file_size != start + size:
        raise ValueError(f"{name} has {info.file_size:,} bytes, its header says {start + size:,}")

    def load() -> NDArray[Any]:
        if size > _MAX_LOADED or is_bomb(info.compress_size, size):
            raise DataError(f"{path}: {name} would take {size:,} bytes of memory; save it as .npy, in C order")
        with _named(path), ZipFile(path) as opened, opened.open(name) as file:
            return npy.read_array(file, allow_pickle=False)

    def rows() -> Iterator[NDArray[Any]]:
        if fortran:
            yield from load()
            return
        with _named(path), ZipFile(path) as opened, opened.open(name) as file:
            file.read(start)
            for _ in range(shape[0]):
                yield np.frombuffer(file.read(size // shape[0]), dtype).reshape(shape[1:])

    return _Member(shape, dtype, rows, load)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Any error in reading an array file as a DataError that names it."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of zipfile, zlib and numpy
        raise DataError(f"{path} is damaged ({first_line(error)})") from error


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type."""
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file)
    if version == (2, 0):
        return npy.read_array_header_2_0(file)
    raise ValueError(f"version {version[0]}.{version[1]} of the .npy format")


def _channels_last(data: str, images: _Member) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """What makes (H, W) or (H, W, C) of a row; images of bytes, of other whole numbers or of floats."""
    shape, dtype = images.shape, images.dtype
    if 0 in shape[1:]:
        raise DataError(f"--data {data}: images of shape {shape[1:]} have no pixels")
    if (size := prod(shape[1:]) * dtype.itemsize) > _MAX_IMAGE:
        raise DataError(f"--data {data}: an image of shape {shape[1:]} has {size:,} bytes, more than {_MAX_IMAGE:,}")
    scale = np.uint8(255 if dtype.kind == "b" else 1)

    def own_type(image: NDArray[Any]) -> NDArray[Any]:
        return np.ascontiguousarray(image * scale if dtype.kind == "b" else image)

    if len(shape) == 3 or channel_axis(data, shape) == 3:
        return own_type
    return lambda image: own_type(image.transpose(1, 2, 0))


def _channels_note(shape: tuple[int, ...], data: str) -> str:
    """Which axis has been taken for that of an unusual number of channels."""
    axis = channel_axis(data, shape) if len(shape) == 4 else 3
    if len(shape) == 3 or shape[axis] in (1, 3, 4):
        return ""
    return f"channels: {shape[axis]}, the {'last' if axis == 3 else 'second'} axis of the array {shape}"


def channel_axis(data: str, shape: tuple[int, ...]) -> int:
    """The axis of an array of images of four axes that has the channels: 3 of (N, H, W, C), 1 of (N, C, H, W).

    It is the one of 1, 3 or 4, else the one that leaves square images, else the shorter one.

    Raises:
        DataError: it may be either.
    """
    _, first, middle, last = shape
    usual = [axis for axis in (3, 1) if shape[axis] in (1, 3, 4)]
    if usual:
        return usual[0]
    square = [axis for axis, others in ((3, (first, middle)), (1, (middle, last))) if others[0] == others[1]]
    if len(square) == 1:
        return square[0]
    if first != last:
        return 3 if last < first else 1
    raise DataError(
        f"--data {data}: an array of shape {shape} may be (N, H, W, C) or (N, C, H, W); crop or pad the images to "
        "another width than the number of channels"
    )


def _labels_name(members: dict[str, _Member], images: str) -> str:
    """The labels beside an array of images: y_train for x_train, train_labels for train_images, ...; "" for none."""
    for old, new in (("x", "y"), ("images", "labels"), ("data", "labels"), ("image", "label")):
        name = re.sub(rf"(?<![a-zA-Z]){old}(?![a-zA-Z])", new, images)
        labels = members.get(name) if name != images else None
        if labels and labels.dtype.kind in "biufUS" and prod(labels.shape) == members[images].shape[0]:
            return name
    return ""


def _read_labels(members: dict[str, _Member], name: str, total: int) -> list[Label]:
    if not name:
        return [None] * total
    return [as_label(code) for code in members[name].load().ravel().tolist()]
