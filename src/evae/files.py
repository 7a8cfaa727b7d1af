"""Files that are written whole or not at all."""

import os
from pathlib import Path

from evae.errors import RunError


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, make it durable and move it there; a failure leaves the old file as it was.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error
