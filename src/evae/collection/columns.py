"""Columns of a map: numbers and classes of each image, as a page takes them."""

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evae.data.factors import key_of, read_table
from evae.errors import DataError

_MAX_CLASSES = 1000  # of a column of texts; with more they are no classes


def packed(values: NDArray[Any]) -> str:
    """An array's bytes, little-endian, in base64."""
    return b64encode(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"))).tobytes()).decode()


def numbers(name: str, values: NDArray[np.floating]) -> dict[str, Any]:
    """A column of numbers, NaN for none."""
    return {"name": name, "kind": "number", "values": packed(values.astype(np.float32))}


def classes(name: str, values: Sequence[object]) -> dict[str, Any] | None:
    """A column of classes, the most frequent first; None for no class, or more than 1,000."""
    counts = Counter(str(value) for value in values if value is not None)
    if not counts or len(counts) > _MAX_CLASSES:
        return None
    names = sorted(counts, key=_natural) if len(counts) <= 20 else [name for name, _ in counts.most_common()]
    index = {name: i for i, name in enumerate(names)}
    codes = np.array([65535 if value is None else index[str(value)] for value in values], np.uint16)
    return {"name": name, "kind": "class", "names": names, "codes": packed(codes)}


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers in their order, before texts."""
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name


def of_file(path: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The columns of a CSV or Parquet file for images by name: its column ``file`` or ``index`` has the names.

    Raises:
        DataError: it cannot be read, or has none of the images.
    """
    table = read_table(path, "--columns")
    key = key_of(table)
    if key is None:
        raise DataError(f"--columns {path} has no column file or index, which would tell the images' rows")
    places = {str(name): row for row, name in enumerate(table[key].to_pylist())}
    rows = [places.get(name) for name in names]
    if not any(row is not None for row in rows):
        raise DataError(
            f"--columns {path} has none of the images; its column {key} begins with {next(iter(places), '')!r}"
        )
    found = (_column(name, table[name], rows) for name in table.column_names if name != key)
    return [column for column in found if column is not None]


def _column(name: str, values: pa.ChunkedArray, rows: Sequence[int | None]) -> dict[str, Any] | None:
    """None for what is neither numbers nor classes: vectors, images, names of files."""
    kind = values.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and len(values.unique()) > 50):
        found = values.to_pandas().to_numpy(float)
        return numbers(name, np.array([np.nan if row is None else found[row] for row in rows]))
    if pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_boolean(kind):
        found = values.to_pylist()
        return classes(name, [None if row is None or found[row] in ("", None) else found[row] for row in rows])
    return None
