"""``evae cache``: the decoded images and features that evae keeps, and how to delete those that are not needed."""

import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from evae import checks
from evae.console import warn
from evae.errors import ConfigError, DataError

# All that evae writes to the cache: stores with their locks, and features; unfinished ones end with .tmp.
_FOLDER = re.compile(r"[0-9a-f]{32}(\.\w{8}\.tmp)?")
_IN_FOLDER = re.compile(r"meta\.json|(train|holdout)(\.u8|\.grey|-labels\.npy|-names\.json)|\d+\.chunk")
_LOCK = re.compile(r"[0-9a-f]{32}\.lock")
_FEATURES = re.compile(r"features-[0-9a-f]{24}\.safetensors|\.features-[0-9a-f]{24}\.safetensors\.\d+(\.tmp)")

_GRACE = 3600  # seconds for which an unfinished file may still be being written


def cache_folder() -> Path:
    """$EVAE_CACHE, or evae in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "evae"
    return Path(os.environ.get("EVAE_CACHE", default))


@dataclass(frozen=True)
class Entry:
    """Something that evae wrote to the cache.

    Attributes:
        path: its folder or file.
        files: all of its files.
        size: their bytes.
        used: time of the last use, in seconds since the epoch.
        title: the data source and shape of the images, or what else it is.
        images: number of decoded images.
        unfinished: whether a killed process left it behind, or a running one is writing it.
    """

    path: Path
    files: tuple[Path, ...]
    size: int
    used: float
    title: str
    images: int | None = None
    unfinished: bool = False

    def delete(self) -> bool:
        """Delete it, unless another process is building it; whether it was deleted."""
        lock = None if "features-" in self.path.name else self.path.with_name(f"{self.path.name[:32]}.lock")
        try:
            with FileLock(lock, timeout=0) if lock else nullcontext():
                for file in self.files:
                    file.unlink(missing_ok=True)
                with suppress(OSError):  # files in it that evae did not write
                    self.path.rmdir()
                with suppress(OSError):  # Windows deletes no file that is open
                    if lock:
                        lock.unlink()
        except Timeout:
            return False
        except OSError as error:
            warn(f"{self.path} cannot be deleted ({error.strerror or error})")
            return False
        return True


def cache(prune: bool = False, older_than: float | None = None, max_size: float | None = None) -> None:
    """List the decoded image caches; --prune deletes those that are not needed.

    Args:
        prune: delete what was not used for --older-than days, and the least recently used until the cache takes at most
            --max-size gigabytes; also what killed processes left behind. Do not prune what a running command uses.
        older_than: days since the last use.
        max_size: gigabytes (10⁹ bytes).

    Raises:
        ConfigError: an option is not valid, or --prune has no criterion, or a criterion no --prune.
        DataError: the cache cannot be read.
    """
    criteria = {"older_than": older_than, "max_size": max_size}
    given = [checks.not_negative(name, value) for name, value in criteria.items() if value is not None]
    if prune and not given:
        raise ConfigError("--prune needs a criterion: --older-than DAYS or --max-size GIGABYTES")
    if given and not prune:
        raise ConfigError("--older-than and --max-size need --prune")
    root = cache_folder()
    entries = sorted(_entries(root), key=lambda entry: -entry.used)
    if prune:
        deleted = _prune(entries, older_than, max_size)
        _show(deleted, f"deleted from {root}")
        entries = [entry for entry in entries if entry not in deleted]
    _show(entries, f"in {root}")


def _prune(entries: Sequence[Entry], older_than: float | None, max_size: float | None) -> list[Entry]:
    """Delete by the criteria of ``cache``, the least recently used first; what was deleted."""
    total, deleted = sum(entry.size for entry in entries), []
    for entry in sorted(entries, key=lambda entry: (not entry.unfinished, entry.used)):
        age = time.time() - entry.used
        is_old = older_than is not None and age > older_than * 86400
        is_excess = max_size is not None and total > max_size * 1e9
        if (age > _GRACE if entry.unfinished else is_old or is_excess) and entry.delete():
            total -= entry.size
            deleted.append(entry)
    return deleted


def _entries(root: Path) -> list[Entry]:
    try:
        paths = [path for path in root.iterdir() if not path.is_symlink()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"the image cache in {root} cannot be read ({error.strerror or error})") from error
    entries = []
    for path in paths:
        with suppress(OSError):  # another process has deleted it, or it cannot be read
            entries.append(_folder_entry(path) if path.is_dir() else _file_entry(path))
    return [entry for entry in entries if entry is not None]


def _folder_entry(path: Path) -> Entry | None:
    """A store, or a part of one; None for a folder that evae did not write."""
    if not (match := _FOLDER.fullmatch(path.name)):
        return None
    inside = list(path.iterdir())
    own = tuple(file for file in inside if _IN_FOLDER.fullmatch(file.name) and not file.is_dir())
    stats = [file.lstat() for file in own]
    size, used = sum(stat.st_size for stat in stats), max([path.stat().st_mtime, *(stat.st_mtime for stat in stats)])
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        meta = json.loads((path / "meta.json").read_text())
        shape, images = "x".join(map(str, meta["image_shape"])), int(sum(meta["count"].values()))
        if not match[1]:
            return Entry(path, own, size, used, f"{meta.get('source', 'unknown source')} ({shape})", images)
    is_own = len(own) == len(inside) and (match[1] or any(file.suffix == ".u8" for file in own))
    return Entry(path, own, size, used, "unfinished store", unfinished=True) if is_own else None


def _file_entry(path: Path) -> Entry | None:
    """Features, or the lock of a store that does not exist; None for a file that evae did not write."""
    size, used = path.stat().st_size, path.stat().st_mtime
    if match := _FEATURES.fullmatch(path.name):
        return Entry(path, (path,), size, used, "features of hold-out images", unfinished=match[1] is not None)
    if _LOCK.fullmatch(path.name) and size == 0 and not path.with_suffix("").exists():
        return Entry(path, (path,), size, used, "lock without a store", unfinished=True)
    return None


def _show(entries: Sequence[Entry], where: str) -> None:
    """A table of 80 columns on standard output."""
    from rich.console import Console
    from rich.filesize import decimal
    from rich.table import Table

    console = Console(markup=False, highlight=False, emoji=False)
    console.print(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'} {where}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("data", "total", overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("size", decimal(sum(entry.size for entry in entries)), justify="right", no_wrap=True)
    table.add_column("last use", no_wrap=True)
    table.add_column("folder", no_wrap=True)
    for entry in entries:
        title, day = entry.title.encode(errors="replace").decode(), datetime.fromtimestamp(entry.used).date()
        images = "" if entry.images is None else f"{entry.images:,}"
        table.add_row(title, images, decimal(entry.size), str(day), entry.path.name[:12])
    if entries:
        console.print(table)
