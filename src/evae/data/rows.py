"""What every source of images is turned into: a cheap key that changes with the content, and undecoded rows."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evae.data.decode import BadImageError, shorter_side
from evae.data.images import Images, Split
from evae.errors import DataError, first_line

_HOLDOUT_NAMES = ("test", "validation", "valid", "val", "holdout", "eval")
NO_LABEL = -1
MAX_NAMED = 5  # files named in a message

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One undecoded image."""

    name: str
    payload: Path | bytes | NDArray[np.uint8]  # a file, its content, or pixels
    label: int
    split: Split | None  # None where the source has none of its own


@dataclass(frozen=True)
class Source:
    """Images from one place."""

    name: str  # as given by the user
    key: str  # changes whenever the images may have changed
    count: int  # of rows
    rows: Callable[[], Iterator[Row]]
    class_names: tuple[str, ...] = ()  # of the labels 0, 1, ...; empty where labels have none
    size: int = 64  # to resize to unless the user says otherwise
    crop: int | None = None  # likewise, side of the centre crop; None: the shorter side
    # Where training images are streamed: makes them of (image_shape, crop, skip_bad), and all rows are hold-out images.
    stream: Callable[[tuple[int, int, int], int | None, bool], Images] | None = None
    unused: tuple[str, ...] = ()  # splits, folders or files that are neither the training nor the hold-out split


def read_content(payload: Path | bytes | NDArray[np.uint8]) -> bytes | NDArray[np.uint8]:
    """The encoded image or the pixels of a payload; BadImageError where the file cannot be read."""
    if not isinstance(payload, Path):
        return payload
    try:
        return payload.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise BadImageError(f"cannot be read ({getattr(error, 'strerror', error)})") from error


def label(code: object) -> int:
    """The class that a value of a column of labels stands for."""
    return code if isinstance(code, int) and 0 <= code < 2**63 else NO_LABEL


def split_names(names: set[str]) -> tuple[str, str]:
    """Which of ``names``, in any case, are the training and the hold-out split; ("", "") where there are not both."""
    lower = {name.lower(): name for name in names}
    holdout = next((lower[name] for name in _HOLDOUT_NAMES if name in lower), "")
    return (lower["train"], holdout) if "train" in lower and holdout else ("", "")


def words(name: str) -> set[str]:
    """The words of a name, in lower case."""
    return set(re.split(r"[^a-z]+", name.lower()))


def splits_of(names: Mapping[T, set[str]]) -> dict[T, Split | None]:
    """The split that the names of each key tell, without keys that tell none; None for all where there are not both."""
    train, holdout = split_names(set().union(*names.values()))
    if not train:
        return dict.fromkeys(names)
    return {key: "train" if train in own else "holdout" for key, own in names.items() if own & {train, holdout}}


def natural_size(rows: Iterator[Row]) -> int:
    """32 for images of up to 32 pixels, as in the paper for MNIST and CIFAR-10, else 64."""
    for row in rows:
        with suppress(BadImageError):
            return 32 if shorter_side(read_content(row.payload)) <= 32 else 64
    return 64


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first few names, and "..." where there are more."""
    return separator.join([*names[:MAX_NAMED], *(["..."] if len(names) > MAX_NAMED else [])])


def existing(data: str) -> Path | None:
    """The file or folder of this name, if there is one; DataError where no path can have this name."""
    try:
        path = Path(data).expanduser()
        return path if data.strip() and path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a NUL
        raise DataError(f"--data {data[:80]!r} is no path ({first_line(error)})") from error


def walk(root: Path) -> Iterator[Path]:
    """Every file that is not hidden, through links to folders too, each folder once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            files = (Path(folder) / name for name in names if not name.startswith("."))
            yield from (file for file in files if file.is_file())
        seen.add(real)


def with_suffix(path: Path, *suffixes: str) -> list[Path]:
    """The file, or all in the folder, sorted, that have one of these suffixes in any case."""
    files = sorted(walk(path)) if path.is_dir() else [path] if path.is_file() else []
    return [file for file in files if file.suffix.lower() in suffixes]


def listing_key(files: Sequence[Path], root: Path) -> str:
    """Digest of names, sizes and modification times: as cheap as git's index, and as sensitive to change."""
    listing = [(f.relative_to(root).as_posix(), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    return blake2b(json.dumps(listing).encode(), digest_size=16).hexdigest()


def files_by_split(path: Path, *suffixes: str) -> tuple[dict[Path, Split | None], str, tuple[str, ...]]:
    """``with_suffix`` with the splits that the files' names tell, their ``listing_key``, and files without a split."""
    root = path if path.is_dir() else path.parent
    names = {file: file.relative_to(root).as_posix() for file in with_suffix(path, *suffixes)}
    splits = splits_of({file: words(name) for file, name in names.items()})
    return splits, listing_key(list(names), root), tuple(name for file, name in names.items() if file not in splits)
