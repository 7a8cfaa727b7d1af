"""meta.json: what a store of decoded images is, and how each of its files is known to be whole."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from evae.columns import Columns
from evae.data.account import Account
from evae.data.levels import Scaling
from evae.errors import DataError
from evae.files import digest, write_atomically
from evae.records import RecordError, as_type, read_json

META = "meta.json"
_MAX_META = 2**30  # bytes
_BLOCK = 2**22


class DamagedStoreError(DataError):
    """A store whose files are not those that were written."""


@dataclass(frozen=True)
class FileRecord:
    """Size, time of modification and BLAKE2b of a file."""

    size: int
    mtime_ns: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """The record of a file as it is."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, file_digest(path))

    def check(self, path: Path, thoroughly: bool) -> None:
        """Raise DamagedStoreError unless the file is the recorded one.

        The content is read where ``thoroughly`` says so, or where the file was modified since.
        """
        try:
            status = path.stat()
            if status.st_size != self.size:
                raise DamagedStoreError(f"{path.name} has {status.st_size:,} bytes instead of {self.size:,}")
            if (thoroughly or status.st_mtime_ns != self.mtime_ns) and file_digest(path) != self.digest:
                raise DamagedStoreError(f"{path.name} has another content than was written")
        except OSError as error:
            raise DamagedStoreError(f"{path.name} cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Record:
    """What meta.json says of a store.

    Attributes:
        source: as the user named it, absolute.
        image_shape: (C, H, W); (F,) of rows of numbers.
        count: number of images in each split.
        class_names: of the labels.
        fingerprint: digest of the images and their split.
        skipped: "name reason" of each bad image.
        unread: the files that could not be read, which may be readable later.
        transform: size and centre crop.
        scaling: how values became 8 bits.
        account: what was found in the source.
        files: of the store, by name.
        columns: of rows of numbers, all that are stored.
    """

    source: str
    image_shape: tuple[int, ...]
    count: dict[str, int]
    class_names: tuple[str, ...]
    fingerprint: str
    skipped: tuple[str, ...]
    unread: tuple[str, ...]
    transform: dict[str, int | None]
    scaling: Scaling
    account: Account
    files: dict[str, FileRecord]
    columns: Columns | None = None

    def write(self, folder: Path) -> None:
        """Write meta.json, whole or not at all."""
        values = asdict(self)
        write_atomically(folder / META, json.dumps(values | {"digest": _digest_of(values)}))

    @classmethod
    def read(cls, folder: Path, thoroughly: bool = False) -> "Record | None":
        """The record of a store after a check of its files; None where there is no store.

        Raises:
            DamagedStoreError: the record or a file is not what was written.
        """
        path = folder / META
        if not folder.exists():
            return None
        try:
            values = read_json(path, dict[str, Any], _MAX_META)
            if values.pop("digest", None) != _digest_of(values):
                raise RecordError("its digest is another one")
            record = as_type(values, cls)
            record._check_files()
        except (OSError, ValueError) as error:
            raise DamagedStoreError(f"{META} is damaged") from error
        for name, file in record.files.items():
            file.check(folder / name, thoroughly)
        return record

    def _check_files(self) -> None:
        """Raise RecordError unless the files of each split are there, with room for its images."""
        if self.columns is not None:
            self.columns.check()
        end, size = (".u8", 1) if self.columns is None else (".f64", 8)
        for split, count in self.count.items():
            if {f"{split}{end}", f"{split}-labels.npy", f"{split}-names.json"} - set(self.files):
                raise RecordError("files are missing")
            if self.files[f"{split}{end}"].size != count * size * math.prod(self.image_shape):
                raise RecordError(f"{split}{end} has another size")

    def accounted(self, account: Account) -> "Record":
        """The same with another account."""
        return replace(self, account=account)


def file_digest(path: Path) -> str:
    """BLAKE2b of 16 bytes of a file, in hexadecimal."""
    state = blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def _digest_of(values: Mapping[str, Any]) -> str:
    return digest(json.dumps(values, sort_keys=True).encode())
