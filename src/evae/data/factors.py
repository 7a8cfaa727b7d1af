"""Factors of images: what each of them shows in numbers and classes, generated or from a table beside the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from evae.data.labels import NO_LABEL, as_label, encode
from evae.errors import DataError, first_line

_KEYS = ("file", "index")  # columns that name the images
_MAX_CLASSES = 50  # of a factor; whole numbers with more values are numbers


@dataclass(frozen=True)
class Factors:
    """K factors of images that are known by their names.

    Attributes:
        names: of the factors, (K,).
        values: (images, K): numbers, or classes 0, 1, ...; NaN where a value is not known.
        is_class: which factors are classes, (K,).
        rows: the row of each image by its name.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64] = field(repr=False)
    is_class: tuple[bool, ...]
    rows: Mapping[str, int] = field(repr=False)

    def of(self, images: Sequence[str]) -> NDArray[np.float64]:
        """The values (N, K) of images by name; NaN for those that have no row."""
        padded = np.vstack([self.values, np.full(len(self.names), np.nan)])
        return padded[[self.rows.get(name, len(self.values)) for name in images]]

    @cached_property
    def digest(self) -> str:
        """Changes with the factors and with the images they belong to."""
        state = blake2b(repr((self.names, self.is_class, list(self.rows.items()))).encode(), digest_size=16)
        state.update(np.ascontiguousarray(self.values).tobytes())
        return state.hexdigest()


def read_factors(path: Path) -> Factors:
    """The factors in the columns of a CSV or Parquet file, a row for each image.

    Its column ``file`` or ``index`` has the names of the images, as ``evae encode`` writes them; without one, rows are
    numbered from 0, as the images of an array or a table are. Numbers are numeric factors; texts, truth values and
    whole numbers of at most 50 values are classes. Other columns (lists, encoded images) are left out.

    Raises:
        DataError: it cannot be read, or has no column of factors.
    """
    table = read_table(path, "--factors")
    key = key_of(table)
    keys = map(str, range(len(table)) if key is None else table[key].to_pylist())
    columns = {name: _column(table[name]) for name in table.column_names if name not in _KEYS}
    found = {name: column for name, column in columns.items() if column is not None}
    if not found:
        raise DataError(f"--factors {path} has no column of numbers, texts or truth values besides the images' names")
    values, is_class = zip(*found.values(), strict=True)
    return Factors(tuple(found), np.column_stack(values), is_class, {name: row for row, name in enumerate(keys)})


def read_table(path: Path, option: str) -> pa.Table:
    """A CSV or Parquet file; DataError that names the option where it cannot be read."""
    try:
        return pq.read_table(path) if path.suffix.lower() == ".parquet" else pyarrow.csv.read_csv(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{option} {path} cannot be read as CSV or Parquet ({first_line(error)})") from error


def key_of(table: pa.Table) -> str | None:
    """The column ``file`` or ``index``, which names the images; None where there is none."""
    return next((name for name in _KEYS if name in table.column_names), None)


def _column(column: pa.ChunkedArray) -> tuple[NDArray[np.float64], bool] | None:
    """The values of a factor and whether they are classes; None for what is no factor."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(column), False
    if pa.types.is_integer(kind) and len(column.unique()) > _MAX_CLASSES:
        return _numbers(column), False
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind):
        codes, _ = encode([None if (label := as_label(v)) is None else str(label) for v in column.to_pylist()], ())
        return np.where(codes == NO_LABEL, np.nan, codes), True
    return None


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)
