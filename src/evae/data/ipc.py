"""Arrow's IPC files and streams: what their compressed buffers unpack to, which pyarrow does not tell before.

Headers of messages are FlatBuffers. A few of their fields are read here, by the numbers in Arrow's ``Message.fbs`` and
``File.fbs``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

_DICTIONARY, _BATCH = 2, 3  # kinds of messages
_MAGIC = b"ARROW1"


@dataclass(frozen=True)
class _Table:
    """A table of a FlatBuffer, at ``start`` of it."""

    buffer: bytes
    start: int

    def _place(self, field: int) -> int:
        """Where the value of a field is; 0 where it is the default."""
        vtable = self.start - self._number("<i", self.start)
        size = self._number("<H", vtable)
        offset = self._number("<H", vtable + 4 + 2 * field) if 4 + 2 * field < size else 0
        return self.start + offset if offset else 0

    def _number(self, form: str, at: int) -> int:
        if at < 0:
            raise ValueError("an offset out of the message")
        number: int = struct.unpack_from(form, self.buffer, at)[0]
        return number

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return self._number(form, place) if place else 0

    def table(self, field: int) -> "_Table | None":
        place = self._place(field)
        return _Table(self.buffer, place + self._number("<I", place)) if place else None

    def structs(self, field: int, form: str) -> Iterator[tuple[int, ...]]:
        """The structs of a vector."""
        if not (place := self._place(field)):
            return iter(())
        vector = place + self._number("<I", place)
        length = self._number("<I", vector) * struct.calcsize(form)
        content = self.buffer[vector + 4 : vector + 4 + length]
        return struct.iter_unpack(form, content[: len(content) // struct.calcsize(form) * struct.calcsize(form)])


def _root(buffer: bytes) -> _Table:
    return _Table(buffer, struct.unpack_from("<I", buffer)[0])


def unpacked_size(content: pa.MemoryMappedFile) -> int:
    """Bytes of memory that the compressed buffers of a file or a stream take.

    Raises:
        Exception: of pyarrow and struct, where it is damaged.
    """
    content.seek(0)
    messages = _of_file(content) if content.read(len(_MAGIC)) == _MAGIC else _of_stream(content)
    return sum(map(_unpacked, messages))


def _of_stream(content: pa.MemoryMappedFile) -> Iterator[pa.Message]:
    content.seek(0)
    reader = pa.ipc.MessageReader.open_stream(content)
    while True:
        try:
            yield reader.read_next_message()
        except StopIteration:
            return


def _of_file(content: pa.MemoryMappedFile) -> Iterator[pa.Message]:
    """Those that the footer names."""
    end = content.size() - len(_MAGIC) - 4
    content.seek(end)
    length = struct.unpack("<i", content.read(4))[0]
    content.seek(end - length)
    footer = _root(content.read(length))
    for field in (2, 3):  # dictionaries and record batches
        for offset, _, _ in footer.structs(field, "<qi4xq"):
            content.seek(offset)
            yield pa.ipc.read_message(content)


def _unpacked(message: pa.Message) -> int:
    root = _root(message.metadata.to_pybytes())
    kind, header = root.number(1, "<B"), root.table(2)
    batch: Any = header if kind == _BATCH else header.table(1) if kind == _DICTIONARY and header else None
    if batch is None or batch.table(3) is None:  # no compression
        return 0
    body = memoryview(message.body)
    sizes = (struct.unpack_from("<q", body, offset)[0] for offset, length in batch.structs(2, "<qq") if length >= 8)
    return sum(max(0, size) for size in sizes)  # -1: as it is
