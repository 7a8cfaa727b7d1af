"""Records: files that evae wrote and others may have changed, read with limits and by type."""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, BinaryIO, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from evae.errors import printable
from evae.files import NotRegularError, open_regular

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_NUMBER = 1e100  # sums and squares of such numbers are finite
MAX_WHOLE = 2**63 - 1

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
    """A JSON file of at most ``most`` bytes as a dataclass, or as any other type that ``conform`` takes.

    Raises:
        RecordError: it is no JSON, too large, too deep or of another type.
        OSError: it cannot be read.
    """
    return as_type(parse_json(read_bytes(path, most)), kind)


def as_type(value: Any, kind: type[T]) -> T:
    """As ``conform``, for dataclasses and other classes."""
    made: T = conform(value, kind)
    return made


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


def conform(value: Any, kind: Any, name: str = "it") -> Any:
    """A value read from JSON or YAML as the type ``kind``, which tuples and dataclasses are made of.

    Args:
        value: what was read.
        kind: None, bool, int, float, str, Any, a Literal, a dataclass, or a list, tuple, dict or union of these. Whole
            numbers have 64 bits, floats are finite and less than 1e100; Any is what JSON can hold.
        name: of the value, in messages.

    Raises:
        RecordError: it has another type.
    """
    return _conform(value, kind, name, 0)


def _conform(value: Any, kind: Any, name: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise RecordError(f"{name} is nested more than {MAX_DEPTH} levels deep")
    if kind is Any:
        kind = {dict: dict[str, Any], list: list[Any], float: Any}.get(type(value), _SCALARS)
        if kind is Any:  # a setting may be infinite
            return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _any_of(value, arguments, name, depth)
    if origin is Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
        return value
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_conform(item, arguments[0], name, depth + 1) for item in value)
    if origin is dict and isinstance(value, dict):
        return {_text(key): _conform(item, arguments[1], _text(key), depth + 1) for key, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        return _instance(value, kind, name, depth)
    if isinstance(kind, type) and kind in _CHECKS and _CHECKS[kind](value):
        return float(value) if kind is float else value
    raise RecordError(f"{name} is {_shown(value)}, not {_called(kind)}")


def _any_of(value: Any, kinds: tuple[Any, ...], name: str, depth: int) -> Any:
    last = RecordError(name)
    for kind in kinds:
        try:
            return _conform(value, kind, name, depth)
        except RecordError as error:
            last = error if not isinstance(value, NoneType) and kind is not NoneType else last
    raise last


def _instance(value: dict[Any, Any], kind: Any, name: str, depth: int) -> Any:
    """A dataclass of the values of its fields; no others may be there."""
    kinds = get_type_hints(kind)
    own = {f.name: f for f in fields(kind) if f.init}
    required = {n for n, f in own.items() if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(required - value.keys()):
        raise RecordError(f"{missing[0]} is missing")
    if unknown := [key for key in value if key not in own]:
        raise RecordError(f"{_text(unknown[0])} is unknown")
    return kind(**{key: _conform(item, kinds[key], key, depth + 1) for key, item in value.items()})


def _is_text(value: Any) -> bool:
    """A text without NUL and without halves of characters, but for the bytes of file names that are no UTF-8."""
    return isinstance(value, str) and not _NO_TEXT.search(value)


def _text(key: Any) -> str:
    if not _is_text(key):
        raise RecordError(f"a name is {_shown(key)}, not a text")
    return str(key)


def _is_whole(value: Any) -> bool:
    return type(value) is int and -MAX_WHOLE - 1 <= value <= MAX_WHOLE


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (type(value) is float and math.isfinite(value) and abs(value) <= MAX_NUMBER)


_CHECKS = {
    NoneType: lambda value: value is None,
    bool: lambda value: type(value) is bool,
    int: _is_whole,
    float: _is_number,
    str: _is_text,
}
_SCALARS = None | bool | int | str


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str | float | bool | NoneType) or _is_whole(value) else ""
    return text if 0 < len(text) <= 40 else f"a value of type {type(value).__name__}"


def _called(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    names = {str: "a text", int: "a whole number", float: "a finite number", bool: "true or false", NoneType: "null"}
    containers = {dict: "names with values", list: "a list", tuple: "a list"}
    return names.get(kind) or containers.get(get_origin(kind), "names with values")
