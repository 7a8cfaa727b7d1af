"""Forms of files: what a file's bytes are as a structure, and the bytes of a structure that was changed."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pandas  # noqa: F401  pyarrow would import it in each process anew
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.lib import format as npy

from evae.files import digest
from tests.fuzz.mutations import DEEP

_DEEP = "[" * 10**5 + "]" * 10**5


@dataclass(frozen=True)
class Form:
    """``build`` fails with any error for a structure that cannot be written."""

    parse: Callable[[bytes], Any]
    build: Callable[[Any], bytes]


def dumped(value) -> str:
    """JSON, also of bytes, and deeper than json writes it."""
    return json.dumps(value, default=repr).replace(f'"{DEEP}"', _DEEP)


def sealed(state: str) -> str:
    """A checkpoint's state.json around its state."""
    return json.dumps({"state": state, "digest": digest(state.encode())})


def _meta(record) -> bytes:
    """A cache's meta.json with the digest of what it says."""
    if isinstance(record, dict):
        record.pop("digest", None)
        record |= {"digest": digest(json.dumps(record, sort_keys=True, default=repr).encode())}
    return dumped(record).encode()


def _parse_tensors(content: bytes):
    end = 8 + int.from_bytes(content[:8], "little")
    return {"header": json.loads(content[8:end]), "body": content[end:]}


def _build_tensors(parts) -> bytes:
    header = dumped(parts["header"]).encode()
    return len(header).to_bytes(8, "little") + header + parts["body"]


def _parse_array(content: bytes):
    file = io.BytesIO(content)
    npy.read_magic(file)
    shape, fortran, dtype = npy.read_array_header_1_0(file)
    header = {"descr": dtype.str, "fortran_order": fortran, "shape": list(shape)}
    return {"header": header, "data": file.read()}


def _build_array(parts) -> bytes:
    header = dict(parts["header"])
    if isinstance(header.get("shape"), list):
        header["shape"] = tuple(header["shape"])
    text = repr(header).replace(repr(DEEP), _DEEP[:30000]).encode(errors="replace")[:65000]
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text) + 1) + text + b"\n" + parts["data"]


def _parse_archive(content: bytes):
    with ZipFile(io.BytesIO(content)) as archive:
        return {name: _parse_array(archive.read(name)) for name in archive.namelist()}


def _build_archive(members) -> bytes:
    with ZipFile(file := io.BytesIO(), "w", ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, _build_array(member))
    return file.getvalue()


def _parse_png(content: bytes):
    chunks, at = [], 8
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + length]])
        at += 12 + length
    return chunks


def _build_png(chunks) -> bytes:
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


def _parse_table(table: pa.Table):
    metadata = {key.decode(): json.loads(value) for key, value in (table.schema.metadata or {}).items()}
    return {"columns": table.to_pydict(), "metadata": metadata}


def _build_table(parts) -> pa.Table:
    metadata = {key: dumped(value) for key, value in parts["metadata"].items()}
    return pa.table(parts["columns"]).replace_schema_metadata(metadata)


def _written(write: Callable[[Any], None]) -> bytes:
    write(file := io.BytesIO())
    return file.getvalue()


def arrow(table: pa.Table, compression: str | None = None) -> bytes:
    """An Arrow file."""

    def write(file):
        with pa.ipc.new_file(file, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
            writer.write_table(table)

    return _written(write)


BYTES = Form(lambda content: None, lambda record: b"")
JSON = Form(json.loads, lambda record: dumped(record).encode())
LINES = Form(
    lambda content: [json.loads(line) for line in content.splitlines()],
    lambda lines: "\n".join(map(dumped, [*lines, {}])).encode(),
)
YAML = Form(yaml.safe_load, lambda record: yaml.safe_dump(record).replace(DEEP, _DEEP[:30000]).encode())
STATE = Form(lambda content: json.loads(json.loads(content)["state"]), lambda state: sealed(dumped(state)).encode())
META = Form(json.loads, _meta)
TENSORS = Form(_parse_tensors, _build_tensors)
ARRAY = Form(_parse_array, _build_array)
ARCHIVE = Form(_parse_archive, _build_archive)
PNG = Form(_parse_png, _build_png)
PARQUET = Form(
    lambda content: _parse_table(pq.read_table(io.BytesIO(content))),
    lambda parts: _written(lambda file: pq.write_table(_build_table(parts), file, row_group_size=20)),
)
ARROW = Form(
    lambda content: _parse_table(pa.ipc.open_file(content).read_all()), lambda parts: arrow(_build_table(parts))
)
