"""Files that are written whole or not at all, and durably."""

import errno
import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from evae.errors import RunError

if sys.platform != "win32":
    import fcntl

_TEMPORARY = re.compile(r"\..+\.evae-[0-9a-f]{8}\.tmp", re.DOTALL)
_NOT_SYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF}  # what file systems refuse


def utf8(name: str) -> str:
    """A name that UTF-8 can encode; bytes of a file name that are no text become question marks."""
    return name.encode(errors="replace").decode()


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
    temporary, descriptor = None, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, descriptor = _new_file(path)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        replace(temporary, path)
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            if temporary is not None:
                temporary.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _new_file(path: Path) -> tuple[Path, int | None]:
    """An empty file beside ``path``, of a name that nobody can foresee, and its descriptor, which locks it.

    The lock ends with the process: a temporary file without one was left behind. None where the system has no such
    locks, or keeps open files from being renamed.
    """
    while True:
        temporary = path.with_name(f".{path.name}.evae-{secrets.token_hex(4)}.tmp")
        with suppress(FileExistsError):
            # Not tempfile's, whose files only their owner could read.
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            if sys.platform == "win32":
                os.close(descriptor)
                return temporary, None
            if _lock(descriptor) and os.fstat(descriptor).st_nlink:
                return temporary, descriptor
            os.close(descriptor)  # another process took it for a leftover, before it was locked


def _lock(descriptor: int) -> bool:
    """Lock an open file; False where another process has."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files in a folder that ``replacing`` has left there because its process was killed."""
    with suppress(OSError):
        for path in folder.iterdir():
            if _TEMPORARY.fullmatch(path.name) and not _is_locked(path):
                path.unlink(missing_ok=True)


def _is_locked(path: Path) -> bool:
    """Whether a process still writes a temporary file; also where nobody can tell."""
    if sys.platform == "win32" or path.is_symlink():
        return True
    with suppress(NotRegularError, OSError), open_regular(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    return True


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside ``path``, with the permissions that the user gives new folders; deleted if it is left."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def digest(content: bytes) -> str:
    """BLAKE2b of 16 bytes, in hexadecimal: tells whether content is what a record says."""
    return blake2b(content, digest_size=16).hexdigest()
