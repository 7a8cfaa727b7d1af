"""What every source of images becomes: a cheap key that changes with the content, and rows that are not decoded yet."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from evae.data.decode import BadImageError, shorter_side

if TYPE_CHECKING:
    from evae.data.streams import StreamedImages

Split = Literal["train", "holdout"]

_HOLDOUT_NAMES = ("test", "validation", "valid", "val", "holdout", "eval")
NO_LABEL = -1


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
        stream: where only hold-out images are among the rows, makes the training images of (image_shape, crop,
            skip_bad); they stay where they are.
        unused: splits, folders or files that are neither the training nor the hold-out split.
    """

    name: str
    key: str
    count: int
    rows: Callable[[], Iterator[Row]]
    class_names: tuple[str, ...] = ()
    size: int = 64
    crop: int | None = None
    stream: "Callable[[tuple[int, ...], int | None, bool], StreamedImages] | None" = None
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
    """What a column of labels says of an image."""
    return code if isinstance(code, int) and 0 <= code < 2**63 else NO_LABEL


def resolved(name: str) -> str:
    """A path that exists, in full; any other name as it is."""
    try:
        path = Path(name).expanduser()
        return str(path.resolve()) if name and path.exists() else name
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user's home, a NUL
        return name


def listing_key(files: Sequence[Path], root: Path) -> str:
    """Names, sizes and times of the files: as cheap as git's index, and as sensitive to change."""
    listing = [(f.relative_to(root).as_posix(), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    return blake2b(json.dumps(listing).encode(), digest_size=16).hexdigest()


def split_names(names: set[str]) -> tuple[str, str]:
    """Which of ``names``, in any case, are the training and the hold-out split; ("", "") where there are not both."""
    lower = {name.lower(): name for name in names}
    holdout = next((lower[name] for name in _HOLDOUT_NAMES if name in lower), "")
    return (lower["train"], holdout) if "train" in lower and holdout else ("", "")


def as_split(name: str, train: str, holdout: str) -> Split | None:
    """Which split ``name`` is, given what ``split_names`` found; None where it found none."""
    return None if not train else "train" if name == train else "holdout"


def natural_size(rows: Iterator[Row]) -> int:
    """32 for images of up to 32 pixels, as the paper does with MNIST and CIFAR-10, else 64."""
    for row in rows:
        try:
            return 32 if shorter_side(row.content()) <= 32 else 64
        except BadImageError:
            continue
    return 64
