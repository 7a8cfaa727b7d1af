"""What every source of images is turned into: a cheap key that changes with the content, and undecoded rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evae.data.decode import BadImageError, shorter_side
from evae.data.images import Images, Split

_HOLDOUT_NAMES = ("test", "validation", "valid", "val", "holdout", "eval")
NO_LABEL = -1
MAX_NAMED = 5  # files named in a message


@dataclass(frozen=True)
class Row:
    """One undecoded image: a file, its content, or pixels; ``split`` is None where the source has none of its own."""

    name: str
    payload: Path | bytes | NDArray[np.uint8]
    label: int
    split: Split | None

    def content(self) -> bytes | NDArray[np.uint8]:
        """As ``read_content`` of its payload."""
        return read_content(self.payload)


@dataclass(frozen=True)
class Source:
    """Images from one place.

    Attributes:
        name: as given by the user.
        key: changes whenever the images may have changed.
        count: number of rows.
        rows: makes an iterator over the rows.
        class_names: names of the labels 0, 1, ...; empty where labels have none.
        size: the size to resize to unless the user says otherwise.
        crop: likewise, side of the centre crop; None: the shorter side.
        stream: makes the training images of (image_shape, crop, skip_bad) where these are streamed: then all rows are
            hold-out images; None where all images are decoded.
        unused: splits, folders or files that are neither the training nor the hold-out split.
    """

    name: str
    key: str
    count: int
    rows: Callable[[], Iterator[Row]]
    class_names: tuple[str, ...] = ()
    size: int = 64
    crop: int | None = None
    stream: Callable[[tuple[int, int, int], int | None, bool], Images] | None = None
    unused: tuple[str, ...] = ()


def read_content(payload: Path | bytes | NDArray[np.uint8]) -> bytes | NDArray[np.uint8]:
    """The encoded image or the pixels.

    Raises:
        BadImageError: the file cannot be read.
    """
    if not isinstance(payload, Path):
        return payload
    try:
        return payload.read_bytes()
    except OSError as error:
        raise BadImageError(f"cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in its name
        raise BadImageError(f"cannot be read ({error})") from error


def label(code: object) -> int:
    """The class that a value of a column of labels stands for."""
    return code if isinstance(code, int) and 0 <= code < 2**63 else NO_LABEL


def split_names(names: set[str]) -> tuple[str, str]:
    """Which of ``names``, in any case, are the training and the hold-out split; ("", "") where there are not both."""
    lower = {name.lower(): name for name in names}
    holdout = next((lower[name] for name in _HOLDOUT_NAMES if name in lower), "")
    return (lower["train"], holdout) if "train" in lower and holdout else ("", "")


def as_split(name: str, train: str, holdout: str) -> Split | None:
    """Which split ``name`` is, given what ``split_names`` found; None where it found none."""
    return None if not train else "train" if name == train else "holdout"


def natural_size(rows: Iterator[Row]) -> int:
    """32 for images of up to 32 pixels, as in the paper for MNIST and CIFAR-10, else 64."""
    for row in rows:
        try:
            return 32 if shorter_side(row.content()) <= 32 else 64
        except BadImageError:
            continue
    return 64


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """The first few names, and "..." where there are more."""
    return separator.join([*names[:MAX_NAMED], *(["..."] if len(names) > MAX_NAMED else [])])
