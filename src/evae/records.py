"""Records: files that evae wrote and others may have changed, read with limits and by type."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from msgspec import Meta, ValidationError, convert

from evae.errors import printable
from evae.files import NotRegularError, open_regular, write_atomically

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_WHOLE = 2**63 - 1

# In one union with a tuple of fixed length, as Finite | tuple[Finite, Finite], msgspec 0.22 ends the process.
Finite = Annotated[float, Meta(ge=-1e100, le=1e100)]  # sums and squares of such numbers are finite
Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0, le=2**53)]

_NO_TEXT = re.compile(r"[\0\ud800-\udc7f\udd00-\udfff]")

T = TypeVar("T")


class RecordError(ValueError):
    """What is wrong with a record, on one line; whoever reads it adds the file and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class NotRegularRecordError(RecordError):
    """A folder, a pipe or a device where a record should be."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; pipes and devices are not waited for.

    Raises:
        NotRegularRecordError: it is a folder, a pipe or a device.
        OSError: it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise NotRegularRecordError("not a regular file")
    try:
        file = open_regular(path)
    except NotRegularError as error:
        raise NotRegularRecordError("not a regular file") from error
    with file:
        yield file


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Raises:
        RecordError: it is not one, or it is larger than ``most`` bytes.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise RecordError(f"larger than {most:,} bytes")
        return file.read(most)


def read_json(path: Path, kind: type[T], most: int = MAX_BYTES) -> T:
    """A JSON file of at most ``most`` bytes as a dataclass, or as any other type that ``as_type`` takes.

    Raises:
        RecordError: it is no JSON, too large, too deep or of another type.
        OSError: it cannot be read.
    """
    return as_type(parse_json(read_bytes(path, most)), kind)


def write_json(path: Path, record: Any) -> None:
    """Write a dataclass as ``read_json`` reads it, whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    write_atomically(path, json.dumps(asdict(record), indent=2) + "\n")


def parse_json(content: bytes | str) -> Any:
    """JSON with whole numbers of at most 64 bits; RecordError where it is none."""
    try:
        return json.loads(content.decode() if isinstance(content, bytes) else content, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"no JSON: {error}") from error


def _whole(digits: str) -> int:
    if len(digits) > 20:
        raise RecordError(f"a number of {len(digits)} digits")
    return int(digits)


def as_type(value: Any, kind: type[T]) -> T:
    """A value read from JSON or YAML as a dataclass, or as any other type of msgspec; nothing is coerced.

    Names that a dataclass does not have are left out. Whole numbers have at most 64 bits, floats are as the type says:
    NaN and infinite ones need another than ``Finite``.

    Raises:
        RecordError: it has another type, or holds what JSON cannot.
    """
    _check_plain(value)
    try:
        return convert(value, kind)
    except ValidationError as error:
        text = str(error)
        raise RecordError(text[:1].lower() + text[1:]) from error


def _check_plain(value: Any, depth: int = 0) -> None:
    """Refuse what JSON cannot hold, numbers of more than 64 bits, and what is too deep; msgspec does not."""
    if depth > MAX_DEPTH:
        raise RecordError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_plain(key, depth)
            _check_plain(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, depth + 1)
    elif isinstance(value, str):
        if _NO_TEXT.search(value):
            raise RecordError("a text has a NUL or half a character")
    elif isinstance(value, int):
        if not -MAX_WHOLE - 1 <= value <= MAX_WHOLE:
            raise RecordError("a number has more than 64 bits")
    elif not (value is None or isinstance(value, float)):
        raise RecordError(f"a value of type {type(value).__name__}")
