"""What every source of images is turned into: a cheap key that changes with the content, and undecoded rows."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from evae.data.decode import BadImageError, shorter_side
from evae.data.images import Images, Split

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
        try:
            return 32 if shorter_side(read_content(row.payload)) <= 32 else 64
        except BadImageError:
            continue
    return 64


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first few names, and "..." where there are more."""
    return separator.join([*names[:MAX_NAMED], *(["..."] if len(names) > MAX_NAMED else [])])
