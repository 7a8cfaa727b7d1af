"""Data given as objects of Python: arrays, tensors, tables and lists of files, which become files of the cache."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from evae.data.cache import cache_folder
from evae.data.rows import existing
from evae.errors import DataError, RunError, first_line
from evae.files import replacing


class ArrowTable(Protocol):
    """A data frame of pandas or polars, a table of pyarrow, or any other that gives itself to Arrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


Data = str | Path | Sequence[str | Path] | NDArray[Any] | Tensor | ArrowTable

_SHAPES = "(N, H, W), (N, H, W, C) or (N, C, H, W), or of rows of numbers, (N, F)"
_KINDS = f"a name, a path, a list of image files, a data frame, or an array or tensor of images, {_SHAPES}"


def named(data: Data) -> str:
    """What names the same images in a configuration and on the command line.

    Names and paths stay as they are. Arrays, tables and lists of files are written to the cache once, under a name
    that is a digest of them, so that a run finds its images again.

    Raises:
        DataError: it is none of these, or it cannot be written.
    """
    if isinstance(data, str | Path):
        return str(data)
    if isinstance(data, Tensor):
        pixels = data.detach().cpu()
        wide = pixels.double() if pixels.ndim == 2 else pixels.float()  # numpy has no bfloat16
        data = (wide if pixels.is_floating_point() else pixels).numpy()
    if isinstance(data, np.ndarray):
        return _array(data)
    if hasattr(data, "__arrow_c_stream__"):
        return _table(data)
    if isinstance(data, Sequence) and data and all(isinstance(file, str | Path) for file in data):
        return _list(data)
    raise DataError(f"data must be {_KINDS}, not {type(data).__name__}")


def _array(images: NDArray[Any]) -> str:
    if images.dtype.hasobject or images.ndim not in (2, 3, 4):
        raise DataError(f"data must be {_KINDS}, not an array of {images.dtype} of shape {images.shape}")
    images = np.ascontiguousarray(images)
    digest = blake2b(repr((images.shape, images.dtype.str)).encode(), digest_size=16)
    digest.update(images.reshape(-1).view(np.uint8).data)
    path = cache_folder() / f"array-{digest.hexdigest()}.npy"
    return _kept(path, lambda temporary: _save(images, temporary))


def _table(frame: Any) -> str:
    """The table as an Arrow file; columns that Arrow cannot hold are an error."""
    try:
        table = pa.table(frame)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"the data frame is no table that can be read ({first_line(error)})") from error
    content = sink.getvalue().to_pybytes()
    path = cache_folder() / f"table-{blake2b(content, digest_size=16).hexdigest()}.arrow"
    return _kept(path, lambda temporary: temporary.write_bytes(content))


def _save(images: NDArray[Any], path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, images, allow_pickle=False)


def _list(files: Sequence[str | Path]) -> str:
    paths = [existing(str(file)) for file in files]
    if missing := [file for file, path in zip(files, paths, strict=True) if path is None or not path.is_file()]:
        raise DataError(f"{missing[0]} is not a file; a list holds image files, and a folder is given alone")
    lines = [str(path.resolve()) for path in paths if path is not None]
    if broken := [line for line in lines if len(line.splitlines()) != 1]:
        raise DataError(f"{broken[0]!r} cannot be in a list: its name has several lines")
    content = os.fsencode("\n".join(lines) + "\n")
    path = cache_folder() / f"files-{blake2b(content, digest_size=16).hexdigest()}.txt"
    return _kept(path, lambda temporary: temporary.write_bytes(content))


def _kept(path: Path, write: Callable[[Path], object]) -> str:
    """The file, written unless it is there."""
    try:
        if not path.exists():
            with replacing(path) as temporary:
                write(temporary)
        with suppress(OSError):  # of a read-only cache
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))  # the last use, for evae cache
    except (OSError, RunError) as error:
        raise DataError(f"the data cannot be kept in the cache: {error}") from error
    return str(path.absolute())
