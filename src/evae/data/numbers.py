"""Rows of numbers: two-dimensional arrays, and the numeric columns of tables. They are read whole, as float64."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from evae.columns import listed
from evae.data.account import Leavings
from evae.data.columns import class_names, label_column, label_kind
from evae.data.images import Split
from evae.data.labels import Label, as_label
from evae.data.rows import Findings, Source
from evae.data.splits import choose
from evae.errors import DataError

if TYPE_CHECKING:
    from evae.data.tables import Table

BY_CONTENT = "one row in ten held out, by its content"
_MAX_BYTES = 2**35  # of all values, as float64
_ROW_NUMBERS = re.compile(r"__index_level_\d+__|unnamed: 0|index|id|", re.IGNORECASE)
_SPLITS = ("split", "subset", "partition")  # columns that may tell the split of each row


@dataclass(frozen=True)
class Numbers:
    """N rows of F numbers, as they were found.

    Attributes:
        names: of the columns, (F,).
        values: (N, F), NaN where a value is missing.
        labels: (N,), None for none.
        splits: (N,), None where the source tells none.
        found: what is known of the source by now.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    labels: list[Label]
    splits: list[Split | None]
    found: Findings


def number_source(
    data: str, key: str, count: int, found: Findings, read: Callable[[], Numbers], class_names: tuple[str, ...] = ()
) -> Source:
    """A source of rows of numbers.

    Raises:
        DataError: there are none.
    """
    if not count:
        raise DataError(f"--data {data} has no rows")
    return Source(data, f"numbers {key}", count, lambda: iter(()), class_names, found=found, numbers=read)


def array_source(
    data: str,
    key: str,
    arrays: dict[str, Callable[[], NDArray[Any]]],
    splits: dict[str, Split],
    labels: Callable[[str], list[Label]],
    count: int,
    found: Findings,
) -> Source:
    """Arrays (n, F) by name, with the split of each where there are splits; the columns are called x0, x1, ..."""

    def read() -> Numbers:
        parts = {name: load() for name, load in arrays.items()}
        widths = {part.shape[1] for part in parts.values()}
        if len(widths) > 1:
            raise DataError(f"--data {data}: the arrays have {' and '.join(map(str, sorted(widths)))} columns")
        _check_size(data, count, max(widths))
        values = np.concatenate([np.asarray(part, np.float64) for part in parts.values()])
        names = tuple(f"x{i}" for i in range(values.shape[1]))
        own: list[Split | None] = [splits.get(name) for name, part in parts.items() for _ in range(len(part))]
        return Numbers(names, values, [label for name in parts for label in labels(name)], own, found)

    return number_source(data, key, count, found, read)


def table_source(data: str, key: str, tables: "list[tuple[Table, Split | None]]", found: Findings) -> Source:
    """The numeric columns of tables with the split of each, and a column of labels if there is one.

    Lists of numbers, all of one length, are a column for each place. Whole numbers that only number the rows are left
    out; a column "split" whose texts name a training and a hold-out split tells the splits.

    Raises:
        DataError: there is no column of numbers, or a table lacks one.
    """
    schema = tables[0][0].schema
    labels, _ = label_column(schema)
    usable = [field.name for field in schema if _is_numeric(field.type) or _is_list(field.type)]
    if not [name for name in usable if name != labels] and not (labels and _is_floating(schema, labels)):
        raise DataError(
            f"--data {data} has no column of encoded images (binary, or a struct with a field 'bytes') nor of numbers; "
            f"its columns are {', '.join(schema.names)}"
        )
    divided = any(split for _, split in tables)
    told = next((n for n in schema.names if n.lower() in _SPLITS and label_kind(schema.field(n).type) == "texts"), None)
    told = None if divided else told
    wanted = list(dict.fromkeys([*usable, *filter(None, [labels, told])]))
    for table, _ in tables:
        if missing := [name for name in wanted if name not in table.schema.names]:
            raise DataError(
                f"--data {data}: {table.name} has no column {missing[0]}, as others have; "
                f"it has {', '.join(table.schema.names)}"
            )
    leavings = Leavings()
    for field in schema:
        if field.name not in wanted:
            leavings.add("columns that hold no numbers", field.name, str(field.type))
    count = sum(table.count for table, _ in tables)
    known = replace(
        found,
        files=found.files | {"rows": count},
        left_out=(*found.left_out, *leavings),
        splits_from=found.splits_from if divided else BY_CONTENT,
    )

    def read() -> Numbers:
        _check_size(data, count, len(usable))
        parts = [_columns_of(table, wanted) for table, _ in tables]
        whole = {name: np.concatenate([_values(data, name, part[name]) for part in parts]) for name in usable}
        own: list[Split | None] = [split for table, split in tables for _ in range(table.count)]
        about = known
        codes: list[Label] = [None] * count
        if labels is not None and not (_is_floating(schema, labels) and not _are_whole(whole[labels])):
            whole.pop(labels, None)
            codes = [as_label(value) for part in parts for value in part[labels].to_pylist()]
            about = replace(about, labels_from=f"the column {labels}")
        elif labels is not None:
            about = replace(about, notes=(*about.notes, f"the column {labels} has other numbers than labels"))
        if told is not None:
            own, about = _told_splits(told, [text for part in parts for text in part[told].to_pylist()], about)
        for name in [name for name in whole if _numbers_rows(name, whole[name])]:
            del whole[name]
            about = replace(about, notes=(*about.notes, f"the column {name} numbers the rows, and is left out"))
        if not whole:
            raise DataError(f"--data {data} has no column of numbers besides those that number rows or name classes")
        names = [f"{name}_{i}" if v.ndim > 1 else name for name, v in whole.items() for i in range(v[0].size)]
        if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
            raise DataError(f"--data {data} has several columns called {sorted(twice)[0]}; give them different names")
        return Numbers(tuple(names), np.column_stack(list(whole.values())), codes, own, about)

    return number_source(data, key, count, known, read, class_names(schema, labels))


def _told_splits(column: str, texts: Sequence[str | None], found: Findings) -> tuple[list[Split | None], Findings]:
    """The split of each row that the texts of a column tell; none where they tell no training and hold-out split."""
    chosen = choose({text for text in texts if text})
    if not chosen:
        note = f"the column {column} names no training and hold-out split, and is left out"
        return [None] * len(texts), replace(found, notes=(*found.notes, note))
    return [chosen.get(text or "") for text in texts], replace(found, splits_from=f"the column {column}")


def _columns_of(table: "Table", names: list[str]) -> dict[str, pa.ChunkedArray]:
    whole = pa.Table.from_batches(table.batches(names), pa.schema([table.schema.field(name) for name in names]))
    return {name: whole.column(name) for name in names}


def _values(data: str, name: str, column: pa.ChunkedArray) -> NDArray[np.float64]:
    """A column (n,), or a column of lists (n, length), as float64; NaN for null."""
    if not _is_list(column.type):
        values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
        return values
    lengths = set(pc.list_value_length(column).to_pylist())
    if len(lengths) != 1 or None in lengths or 0 in lengths:
        found = ", ".join(sorted(map(str, lengths - {None}))[:3]) + (" and none" if None in lengths else "")
        raise DataError(f"--data {data}: the lists of the column {name} have different lengths ({found}); use one")
    flat: NDArray[np.float64] = pc.list_flatten(column).cast(pa.float64(), safe=False).to_numpy()
    return flat.reshape(len(column), -1)


def _is_numeric(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_numeric(kind.value_type)


def _is_floating(schema: pa.Schema, name: str) -> bool:
    return bool(pa.types.is_floating(schema.field(name).type))


def _are_whole(values: NDArray[np.float64]) -> bool:
    known = values[np.isfinite(values)]
    return bool((known == np.round(known)).all())


def _numbers_rows(name: str, values: NDArray[np.float64]) -> bool:
    """Whether a column only tells the rows apart: whole numbers, all different, under a name of such."""
    named = values.ndim == 1 and _ROW_NUMBERS.fullmatch(name) is not None
    return named and _are_whole(values) and len(np.unique(values)) == len(values)


def _check_size(data: str, rows: int, columns: int) -> None:
    if (size := 8 * rows * columns) > _MAX_BYTES:
        raise DataError(f"--data {data}: {rows:,} rows of {columns:,} numbers take {size:,} bytes, too many to read")


def empty_columns(numbers: Numbers) -> tuple[Numbers, list[str]]:
    """The numbers without the columns that have none, and the names of these."""
    is_empty = ~np.isfinite(numbers.values).any(0)
    if not is_empty.any():
        return numbers, []
    names = np.array(numbers.names, dtype=object)
    kept = replace(numbers, names=tuple(names[~is_empty]), values=numbers.values[:, ~is_empty])
    return kept, list(names[is_empty])


def constant_warning(names: Sequence[str], what: str) -> str:
    """What to warn of columns that are left out; "" for none."""
    noun = "column is" if len(names) == 1 else "columns are"
    return f"{len(names):,} {what} {noun} left out: {listed(names)}" if names else ""
