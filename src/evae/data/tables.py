"""Parquet, Arrow and CSV files: a column of encoded images, and one of labels if there is any; or numeric columns."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from evae.data.columns import class_names, holds_images, image_column, label_column, label_kind
from evae.data.decode import BadImageError, shorter_side
from evae.data.images import Split
from evae.data.ipc import unpacked_size
from evae.data.labels import as_label
from evae.data.numbers import table_source
from evae.data.rows import (
    Findings,
    Payload,
    Reference,
    Row,
    Source,
    existing,
    files_by_split,
    is_bomb,
    natural_size,
    read_content,
)
from evae.errors import DataError, first_line

_ROWS = 256  # rows per read at most
_MEMORY = 2**28  # bytes of a read, beyond a single row
_MAX_LINE = 2**24  # bytes of the first line of a CSV file


@dataclass(frozen=True)
class Table:
    """Rows of a file or a split, read when they are asked for."""

    schema: pa.Schema
    count: int  # of rows
    batches: Callable[[list[str]], Iterator[pa.RecordBatch]]  # the rows of some columns, in this order, validated
    name: str = "one of its files"
    size: int | None = None  # bytes of its file


def in_memory(table: pa.Table, name: str = "one of its files", size: int | None = None) -> Table:
    """A table that Arrow holds in memory, or has mapped."""

    def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with failure_named(name, "is damaged"):
            yield from validated(table.select(columns).to_batches(_ROWS))

    return Table(table.schema, len(table), batches, name, size)


def validated(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, after a check of all offsets: pyarrow would read whatever memory they point to."""
    for batch in batches:
        batch.validate(full=True)
        yield batch


def parquet(data: str) -> Source | None:
    """Parquet and Arrow files, with the splits that their names tell."""
    if (path := existing(data)) is None:
        return None
    return _source(data, path, ".parquet", ".arrow")


def delimited(data: str) -> Source | None:
    """CSV files (.csv, .tsv) of numbers, with the splits that their names tell."""
    return None if (path := existing(data)) is None else _source(data, path, ".csv", ".tsv")


def _source(data: str, path: Path, *suffixes: str) -> Source | None:
    files = files_by_split(path, *suffixes)
    if not files.splits:
        return None
    tables = [(_open_table(file), split) for file, split in files.splits.items()]
    return arrow_source(data, f"tables {files.key}", tables, files.found, roots=(str(files.root),))


def _open_table(file: Path) -> Table:
    damage = f"is damaged or no {file.suffix[1:]} file"
    with failure_named(file, damage):
        if file.suffix.lower() in (".csv", ".tsv"):
            return _delimited(file)
        if file.suffix.lower() == ".parquet":
            opened = pq.ParquetFile(file, memory_map=True)

            def batches(columns: list[str]) -> Iterator[pa.RecordBatch]:
                with failure_named(file, damage):
                    rows = rows_per_batch(str(file), opened.metadata, columns)
                    read = opened.iter_batches(rows, columns=columns)
                    yield from validated(batch.select(columns) for batch in read)

            return Table(opened.schema_arrow, opened.metadata.num_rows, batches, str(file), file.stat().st_size)
        with pa.memory_map(str(file)) as content:
            check_unpacked(str(file), content.size(), unpacked_size(content))
            content.seek(0)
            try:
                return in_memory(pa.ipc.open_file(content).read_all(), str(file), content.size())
            except pa.ArrowInvalid:  # datasets writes streams
                content.seek(0)
                return in_memory(pa.ipc.open_stream(content).read_all(), str(file), content.size())


def _delimited(file: Path) -> Table:
    """A CSV file; its columns are x0, x1, ... where the first line has nothing but numbers."""
    with file.open("rb") as opened:
        line = opened.readline(_MAX_LINE).decode("utf-8-sig", errors="replace").strip()
    delimiter = max("\t,;", key=line.count)
    header = [cell.strip().strip('"') for cell in line.split(delimiter)]
    named = any(cell and not _is_number(cell) for cell in header)
    table = csv.read_csv(
        file,
        csv.ReadOptions(column_names=None if named else [f"x{i}" for i in range(len(header))]),
        csv.ParseOptions(delimiter=delimiter),
        csv.ConvertOptions(null_values=[*csv.ConvertOptions().null_values, "?"]),
    )
    return in_memory(table, str(file))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def check_unpacked(file: str, packed: int, unpacked: int, part: str = "") -> None:
    """Raise DataError where so much memory for so few bytes of a file tells that it was made to exhaust memory."""
    if is_bomb(packed, unpacked):
        raise DataError(f"{file} would unpack {packed:,} to {unpacked:,} bytes{part}; encoded images do not")


def rows_per_batch(file: str, metadata: pq.FileMetaData, columns: list[str]) -> int:
    """Rows to read at once, so that they take little memory even where all repeat the largest value.

    Raises:
        DataError: some rows would unpack to more than a hundred times their size.
    """
    largest = 1
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        for chunk in wanted:
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            check_unpacked(file, packed, unpacked, f" in its column {chunk.path_in_schema}")
            largest = max(largest, unpacked)
    return max(1, min(_ROWS, _MEMORY // largest))


@contextmanager
def failure_named(file: Path | str, failure: str = "cannot be read") -> Iterator[None]:
    """Any error as a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # of Arrow, and of fsspec's file systems, which have no common base
        raise DataError(f"{file} {failure} ({first_line(error)})") from error


def arrow_source(
    data: str,
    key: str,
    tables: list[tuple[Table, Split | None]],
    found: Findings = Findings(),  # noqa: B008
    crop: int | None = None,
    roots: tuple[str, ...] = (),
    column: str | None = None,
) -> Source:
    """Tables with the split of each; the first one's schema tells which columns hold images and labels, or numbers.

    Args:
        data: as the user named it.
        key: changes with the content.
        tables: each with its split.
        found: what is known of the source besides.
        crop: the source's own centre crop.
        roots: folders below which the files lie that rows may name.
        column: of images, as the user chose it.
    """
    total = sum(table.count for table, _ in tables)
    if not total:
        raise DataError(f"--data {data} has no rows")
    schema, filled = tables[0][0].schema, next(table for table, _ in tables if table.count)
    if column is None and not any(holds_images(field.type) for field in schema):
        return table_source(data, key, tables, found)
    images, note = image_column(data, schema, lambda name: _is_image(filled, name, roots), column)
    labels, doubt = label_column(schema)
    wanted = [images, labels] if labels else [images]
    for table, _ in tables:
        check_columns(data, table.name, table.schema, wanted)
    _check_labels(data, [table for table, _ in tables], labels)

    def rows() -> Iterator[Row]:
        number = count()
        for table, split in tables:
            unpacked = 0
            for batch in table.batches(wanted):
                for row in zip(*batch.columns, strict=True):  # one at a time: all may repeat the largest value
                    content, *codes = (value.as_py() for value in row)
                    image = payload(content, roots)
                    unpacked += len(image) if isinstance(image, bytes) else 0
                    if table.size is not None:
                        check_unpacked(table.name, table.size, unpacked)
                    yield Row(str(next(number)), image, as_label(codes[0]) if codes else None, split)

    names = _agreed_names(data, [table for table, _ in tables], labels)
    known = replace(
        found,
        files=found.files | {"rows": total},
        labels_from=f"the column {labels}" if labels else "",
        notes=(*found.notes, *filter(None, [note])),
        doubts=(*found.doubts, *filter(None, [doubt])),
    )

    def with_column(name: str) -> Source:
        return arrow_source(data, f"{key} column {name}", tables, found, crop, roots, name)

    return Source(data, key, total, rows, names, natural_size(rows()), crop, None, known, images, with_column)


def _is_image(table: Table, column: str, roots: tuple[str, ...]) -> bool:
    """Whether the first value of a column that is not null is an image."""
    with suppress(BadImageError):
        for batch in table.batches([column]):
            if value := next((value for value in batch.column(0) if value.is_valid), None):
                return shorter_side(read_content(payload(value.as_py(), roots))) > 0
    return False


def _check_labels(data: str, tables: list[Table], column: str | None) -> None:
    """Raise DataError unless labels are in the same column of all tables, and of the same kind."""
    first = tables[0]
    kinds = {}
    for table in tables:
        own = label_column(table.schema)[0]
        if column is None and own is not None:
            raise DataError(f"--data {data}: {first.name} has no labels, but {table.name} has a column {own}")
        kind = label_kind(table.schema.field(column).type) if column else None
        if column and not pa.types.is_null(table.schema.field(column).type):
            kinds[{"numbers": "whole numbers"}.get(kind or "", kind)] = table
    if len(kinds) > 1:
        named = " and ".join(f"{table.schema.field(column).type} in {table.name}" for table in kinds.values())
        raise DataError(f"--data {data}: the column {column} of labels is {named}; write them with one type")


def _agreed_names(data: str, tables: list[Table], labels: str | None) -> tuple[str, ...]:
    """The names of the classes, which all tables that have some have to have in the same order."""
    named = [(table, own) for table in tables if (own := class_names(table.schema, labels))]
    for table, own in named:
        if own != named[0][1]:
            raise DataError(
                f"--data {data}: {table.name} names the classes {', '.join(own[:5])}, {named[0][0].name} "
                f"{', '.join(named[0][1][:5])}; name one of them as --data"
            )
    return named[0][1] if named else ()


def payload(value: Any, roots: tuple[str, ...] = ()) -> Payload:
    """The encoded bytes of a cell, or the file that it names where its struct holds only that."""
    cell = value if isinstance(value, dict) else {"bytes": value}
    content, path = cell.get("bytes"), cell.get("path")
    if isinstance(content, bytes) and content:
        return content
    return Reference(path, roots) if isinstance(path, str) and path else b""


def check_columns(data: str, file: str, schema: pa.Schema, wanted: list[str]) -> None:
    """Raise DataError unless a file has the columns of the others: first of encoded images, second of labels."""
    if missing := [name for name in wanted if name not in schema.names]:
        columns = ", ".join(schema.names)
        raise DataError(f"--data {data}: {file} has no column {missing[0]}, as others have; it has {columns}")
    kinds = [field.type for field in schema if field.name == wanted[0]]
    if not all(map(holds_images, kinds)):
        raise DataError(f"--data {data}: the column {wanted[0]} of {file} holds no encoded images, but {kinds[0]}")
