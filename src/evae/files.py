"""Files that are written whole or not at all, and durably."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from evae.errors import RunError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole; see ``replacing``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path``, to be written; afterwards it is made durable and takes the place of ``path``.

    Missing parent folders are created. A failure leaves the old file as it was.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` durably: the new name survives a power failure."""
    os.replace(source, target)
    sync_folder(target.parent)


class NotRegularError(Exception):
    """A pipe or a device where a regular file is needed."""


def open_regular(path: Path) -> BinaryIO:
    """A regular file, open for reading; pipes and devices are not waited for.

    Raises:
        NotRegularError: it is one of these.
        OSError: it cannot be read, or is a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise NotRegularError(f"{path} is not a regular file")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can (Windows cannot open folders)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(content: bytes) -> str:
    """BLAKE2b of 16 bytes, in hexadecimal: tells whether content is what a record says."""
    return blake2b(content, digest_size=16).hexdigest()
