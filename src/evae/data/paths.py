"""Files that the user names: whether they exist, which there are in a folder, and whether they have changed."""

import json
import os
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from evae.errors import DataError, first_line


def existing(data: str) -> Path | None:
    """The file or folder of this name, if there is one; DataError where no path can have this name."""
    try:
        path = Path(data).expanduser()
        return path if data.strip() and path.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # too long, an unknown user's home, a NUL
        raise DataError(f"--data {data[:80]!r} is no path ({first_line(error)})") from error


def walk(root: Path) -> Iterator[Path]:
    """Every file that is not hidden, through links to folders too, each folder once."""
    seen = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            files = (Path(folder) / name for name in names if not name.startswith("."))
            yield from (file for file in files if file.is_file())
        seen.add(real)


def with_suffix(path: Path | None, *suffixes: str) -> list[Path]:
    """The file, or all in the folder, sorted, that have one of these suffixes in any case."""
    files = [] if path is None else sorted(walk(path)) if path.is_dir() else [path] if path.is_file() else []
    return [file for file in files if file.suffix.lower() in suffixes]


def listing_key(files: Sequence[Path], root: Path) -> str:
    """Digest of names, sizes and modification times: as cheap as git's index, and as sensitive to change."""
    listing = [(f.relative_to(root).as_posix(), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
    return blake2b(json.dumps(listing).encode(), digest_size=16).hexdigest()
