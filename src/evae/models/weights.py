"""Files of weights: safetensors with a digest of the tensors, checked before memory is taken and after reading."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load, save
from torch import Tensor

from evae.records import RecordError, as_type, opened, parse_json

_MAX_HEADER = 100_000_000  # as safetensors has it
_DIGEST, _METADATA = "digest", "__metadata__"

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What the beginning of a safetensors file tells.

    Attributes:
        shapes: of its tensors, by name.
        digest: of its tensors as they were written; None where it was not written.
        size: of the whole file, in bytes.
    """

    shapes: Shapes
    digest: str | None
    size: int


def save_weights(tensors: dict[str, Tensor]) -> bytes:
    """Tensors as a safetensors file, with their digest in its header."""
    return save(tensors, metadata={_DIGEST: tensors_digest(tensors)})


def load_weights(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        RecordError: they are not those that were written.
        SafetensorError: it is no safetensors file.
    """
    tensors = load(content)
    length = int.from_bytes(content[:8], "little")
    written = _header(content[8 : 8 + length], len(content)).digest
    if written not in (None, tensors_digest(tensors)):
        raise RecordError("its tensors are not those that were written")
    return tensors


def read_weights(path: Path, check: Callable[[Shapes], None] = lambda _: None) -> bytes:
    """The content of a safetensors file, read once its size and ``check`` of its shapes are right.

    Raises:
        RecordError: it is no safetensors file, or it is cut short.
        OSError: it cannot be read.
    """
    with opened(path) as file:
        header = _read_header(file)
        check(header.shapes)
        file.seek(0)
        content = file.read(header.size)
    if len(content) != header.size:
        raise RecordError("it was cut while it was read")
    return content


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """BLAKE2b of names, types, shapes and values, in hexadecimal."""
    state = blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        state.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        state.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _read_header(file: BinaryIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(size - 8, _MAX_HEADER):
        raise RecordError("no safetensors file")
    return _header(file.read(length), size)


def _header(content: bytes, size: int) -> Header:
    listed = as_type(parse_json(content), dict[str, Any])
    metadata = as_type(listed.pop(_METADATA, {}), dict[str, str])
    entries = {name: as_type(entry, _Entry) for name, entry in listed.items()}
    end = max((max(entry.data_offsets, default=0) for entry in entries.values()), default=0)
    if 8 + len(content) + end != size:
        raise RecordError(f"{size:,} bytes, where its header tells of {8 + len(content) + end:,}")
    return Header({name: entry.shape for name, entry in entries.items()}, metadata.get(_DIGEST), size)
