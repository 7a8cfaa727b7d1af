"""What every source of images is turned into: a cheap key that changes with the content, and undecoded rows."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from evae.data.account import LeftOut
from evae.data.decode import BadImageError, Channels, UnreadableError, shorter_side
from evae.data.factors import Factors
from evae.data.images import Images, Split
from evae.data.labels import Label
from evae.data.levels import Scaling
from evae.data.scan import kinds, scan
from evae.data.splits import Division, divide
from evae.errors import DataError, first_line
from evae.files import NotRegularError, open_regular

if TYPE_CHECKING:
    from evae.data.numbers import Numbers

BY_CONTENT = "one image in ten held out, by its content"
MAX_NAMED = 5  # files named in a message

MAX_FILE = 2**30  # bytes of an encoded image
_UNPACKED, _RATIO = 2**28, 100  # bytes, and their ratio to packed ones: that of encoded images is about 1


@dataclass(frozen=True)
class Reference:
    """A file that a row of a table names; it has to lie below one of the folders ``roots``."""

    path: str
    roots: tuple[str, ...]


Payload = Path | Reference | bytes | NDArray[Any]  # a file, its content, or pixels


@dataclass(frozen=True)
class Findings:
    """What is known of a source before its images are decoded, for the account.

    Attributes:
        files: number of files or rows, by kind.
        left_out: what is not read, and why.
        unused: splits, folders or files that are neither the training nor the hold-out split.
        splits_from, labels_from: where splits and labels come from.
        notes: choices that are told once.
        doubts: choices that may be wrong, which are told at every opening.
    """

    files: dict[str, int] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    unused: tuple[str, ...] = ()
    splits_from: str = BY_CONTENT
    labels_from: str = ""
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class StreamOptions:
    """How streamed images are read: as the hold-out images were decoded."""

    image_shape: tuple[int, ...]
    crop: int | None
    skip_bad: bool
    scaling: Scaling | None
    class_names: tuple[str, ...]
    channels: Channels = "auto"


@dataclass(frozen=True)
class Row:
    """One undecoded image."""

    name: str
    payload: Payload
    label: Label
    split: Split | None  # None where the source has none of its own


@dataclass(frozen=True)
class Source:
    """Images, or rows of numbers, from one place."""

    name: str  # as given by the user
    key: str  # changes whenever the images may have changed
    count: int  # of rows
    rows: Callable[[], Iterator[Row]]
    class_names: tuple[str, ...] = ()  # of the labels 0, 1, ...; empty where labels have none
    size: int = 64  # to resize to unless the user says otherwise
    crop: int | None = None  # likewise, side of the centre crop; None: the shorter side
    # Where training images are streamed: makes them, and all rows are hold-out images.
    stream: Callable[[StreamOptions], Images] | None = None
    found: Findings = Findings()
    column: str = ""  # of images, where they are in a table
    with_column: Callable[[str], "Source"] | None = None  # the same with another column of images
    numbers: "Callable[[], Numbers] | None" = None  # where it has rows of numbers, and no images: reads them
    factors: Factors | None = None  # of the images, where they are generated

    @property
    def noun(self) -> str:
        """What it has, in the singular."""
        return "image" if self.numbers is None else "row"


def read_content(payload: Payload) -> bytes | NDArray[Any]:
    """The encoded image or the pixels of a payload.

    Raises:
        UnreadableError: the file cannot be read now.
        BadImageError: it is no regular file, too large, or not below the data's own folder.
    """
    if isinstance(payload, bytes | np.ndarray):
        return payload
    try:
        return _read_regular(_below(payload) if isinstance(payload, Reference) else payload)
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL in its name
        raise BadImageError(f"cannot be read ({error})") from error


def _below(reference: Reference) -> Path:
    for root in reference.roots:
        path = os.path.realpath(os.path.join(root, reference.path))
        if os.path.commonpath([path, os.path.realpath(root)]) == os.path.realpath(root):
            return Path(path)
    raise BadImageError(f"names the file {ascii(reference.path)[:200]}, which is not below the data's own folder")


def _read_regular(path: Path) -> bytes:
    try:
        file = open_regular(path)
    except NotRegularError as error:
        raise BadImageError("is no regular file") from error
    with file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_FILE:
            raise BadImageError(f"has {size:,} bytes, more than {MAX_FILE:,}")
        return file.read(MAX_FILE)


def is_bomb(packed: int, unpacked: int) -> bool:
    """Whether so few bytes of a file become so many in memory that it was made to exhaust it."""
    return unpacked > _UNPACKED and unpacked > _RATIO * packed


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


def listing_key(files: Sequence[Path], root: Path) -> str:
    """Digest of names, sizes and modification times: as cheap as git's index, and as sensitive to change."""
    try:
        listing = [(f.relative_to(root).as_posix(), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}); it was there a moment ago") from error
    return blake2b(json.dumps(listing).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class TableFiles:
    """Files of tables with the splits that their names tell."""

    root: Path
    splits: dict[Path, Split | None]
    key: str  # the ``listing_key`` of all
    found: Findings


def files_by_split(path: Path, *suffixes: str) -> TableFiles:
    """The file, or the files of a folder, with one of these suffixes, and the splits that names tell.

    The names of files count first, then those of the folders from the top.
    """
    scanned = scan(path)
    files = scanned.with_suffix(*suffixes)
    names = {file: scanned.relative(file) for file in files}
    parts = {file: (*Path(name).parent.parts, file.stem) for file, name in names.items()}
    deepest = max(map(len, parts.values()), default=0)
    division = divide(parts, strict=False, levels=[-1, *range(deepest)])
    unused = tuple(name for file, name in names.items() if file not in division.splits)
    found = Findings(
        files={f"{suffix} files": count for suffix, count in kinds(files).items()},
        left_out=(*scanned.left_out, *(scanned.others(files) if path.is_dir() else ())),
        unused=unused,
        splits_from=told_by("the names of files" if division.level == -1 else "folders", division),
        doubts=split_doubts(division),
    )
    return TableFiles(scanned.root, division.splits, listing_key(files, scanned.root), found)


def told_by(what: str, division: Division[Any]) -> str:
    """Where splits come from, for the account."""
    if division.level is None:
        return BY_CONTENT
    return f"{what}: {listed(sorted(division.names))}"


def split_doubts(division: Division[Any]) -> tuple[str, ...]:
    """What looks like splits and is not taken."""
    if not division.ignored:
        return ()
    return (f"{listed(division.ignored)}: these names look like splits and are not taken as such",)
