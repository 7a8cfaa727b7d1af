"""Images from Parquet and Arrow files: a column of encoded images, and one of labels if there is any."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evae.data.images import Split
from evae.data.rows import NO_LABEL, Row, Source, existing, files_by_split, label, natural_size
from evae.errors import DataError, first_line

_ROWS = 256  # rows per read


@dataclass(frozen=True)
class Table:
    """Rows of a file or a split, read when they are asked for."""

    schema: pa.Schema
    count: int  # of rows
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]]  # the rows of some columns, in this order


def in_memory(table: pa.Table) -> Table:
    """A table that Arrow holds in memory, or has mapped."""
    return Table(table.schema, len(table), lambda columns: iter(table.select(columns).to_batches(_ROWS)))


def parquet(data: str) -> Source | None:
    """Parquet and Arrow files, with the splits that their names tell."""
    if (path := existing(data)) is None:
        return None
    splits, key, unused = files_by_split(path, ".parquet", ".arrow")
    tables = [(_open_table(file), split) for file, split in splits.items()]
    return replace(arrow_source(data, f"tables {key}", tables), unused=unused) if tables else None


def _open_table(file: Path) -> Table:
    damage = f"is damaged or no {file.suffix[1:]} file"
    with failure_named(file, damage):
        if file.suffix.lower() == ".parquet":
            opened = pq.ParquetFile(file, memory_map=True)

            def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
                with failure_named(file, damage):
                    yield from (batch.select(columns) for batch in opened.iter_batches(_ROWS, columns=columns))

            return Table(opened.schema_arrow, opened.metadata.num_rows, batches)
        with pa.memory_map(str(file)) as content:
            try:
                return in_memory(pa.ipc.open_file(content).read_all())
            except pa.ArrowInvalid:  # datasets writes streams
                content.seek(0)
                return in_memory(pa.ipc.open_stream(content).read_all())


@contextmanager
def failure_named(file: Path | str, failure: str = "cannot be read") -> Iterator[None]:
    """Any error as a DataError that names the file."""
    try:
        yield
    except Exception as error:  # of Arrow, and of fsspec's file systems, which have no common base
        raise DataError(f"{file} {failure} ({first_line(error)})") from error


def arrow_source(data: str, key: str, tables: list[tuple[Table, Split | None]], crop: int | None = None) -> Source:
    """Tables with the split of each; the first one's schema tells which columns hold images and labels."""
    schema = tables[0][0].schema
    images, labels = image_column(data, schema), label_column(schema)
    wanted = [images, labels] if labels else [images]
    for table, _ in tables:
        check_columns(data, "one of its files", table.schema, wanted)

    def rows() -> Iterator[Row]:
        number = count()
        for table, split in tables:
            for batch in table.batches(wanted):
                codes = batch.column(1).to_pylist() if labels else [NO_LABEL] * len(batch)
                for content, code in zip(batch.column(0).to_pylist(), codes, strict=True):
                    yield Row(str(next(number)), payload(content), label(code), split)

    total = sum(table.count for table, _ in tables)
    if not total:
        raise DataError(f"--data {data} has no rows")
    return Source(data, key, total, rows, _class_names(schema, labels), natural_size(rows()), crop)


def payload(value: Any) -> Path | bytes:
    """The encoded bytes of a cell, or the path of a file where its struct holds only that."""
    cell = value if isinstance(value, dict) else {"bytes": value}
    content, path = cell.get("bytes"), cell.get("path")
    if isinstance(content, bytes) and content:
        return content
    return Path(path) if isinstance(path, str) and path else b""


def image_column(data: str, schema: pa.Schema) -> str:
    """The column of encoded images: a struct with a field "bytes" (as datasets writes it), or binary."""
    found = [f.name for f in schema if _holds_images(f.type)]
    if not found:
        raise DataError(
            f"--data {data} has no column of encoded images (binary, or a struct with a field 'bytes'); "
            f"its columns are {', '.join(schema.names)}"
        )
    return next((name for name in ("image", "img") if name in found), found[0])


def _holds_images(column: pa.DataType) -> bool:
    if pa.types.is_struct(column):
        return column.get_field_index("bytes") >= 0
    return bool(pa.types.is_binary(column) or pa.types.is_large_binary(column))


def check_columns(data: str, file: str, schema: pa.Schema, wanted: list[str]) -> None:
    """Raise DataError unless a file has the columns of the others, the first of them of encoded images."""
    if missing := [name for name in wanted if name not in schema.names]:
        columns = ", ".join(schema.names)
        raise DataError(f"--data {data}: {file} has no column {missing[0]}, as others have; it has {columns}")
    kinds = [field.type for field in schema if field.name == wanted[0]]
    if not all(map(_holds_images, kinds)):
        raise DataError(f"--data {data}: the column {wanted[0]} of {file} holds no encoded images, but {kinds[0]}")


def label_column(schema: pa.Schema) -> str | None:
    """The column of labels, if there is one."""
    found = [field.name for field in schema if pa.types.is_integer(field.type)]
    return next((name for name in ("label", "labels", "fine_label", "class", "target") if name in found), None)


def _class_names(schema: pa.Schema, column: str | None) -> tuple[str, ...]:
    """The names that datasets keeps in the schema's metadata."""
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return tuple(map(str, metadata["info"]["features"][column]["names"]))
    except (ValueError, KeyError, TypeError):  # none, or of another form
        return ()
