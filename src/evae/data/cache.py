"""``evae cache``: the decoded images and features that evae keeps, and how to delete those that are not needed."""

import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from evae import checks
from evae.console import console, warn
from evae.data.record import DamagedStoreError, Record
from evae.errors import ConfigError, DataError
from evae.files import utf8

# All that evae writes to the cache: stores with their locks, features, images given from Python; unfinished ones end
# with .tmp.
_STORE = re.compile(r"[0-9a-f]{32}(\.\w{8}\.tmp)?")
_IN_STORE = re.compile(r"meta\.json|(train|holdout)(\.u8|\.f64|\.grey|-labels\.npy|-names\.json)|\d+\.chunk")
_FEATURES = r"features-[0-9a-f]{24}\.safetensors"
_GIVEN = r"(array|files|table)-[0-9a-f]{32}\.(npy|txt|arrow)"  # by memory.py
_FILE = re.compile(rf"[0-9a-f]{{32}}\.lock|({_FEATURES}|{_GIVEN})|\.({_FEATURES}|{_GIVEN})\.[\w-]+\.tmp")
_GRACE = 3600  # seconds for which an unfinished file may still be being written


def cache_folder() -> Path:
    """$EVAE_CACHE, or evae in the user's cache folder ($XDG_CACHE_HOME, else ~/.cache); an empty variable is none.

    Raises:
        DataError: neither variable is set and there is no home folder.
    """
    try:
        if own := os.environ.get("EVAE_CACHE", "").strip():
            return Path(own).expanduser()
        users = os.environ.get("XDG_CACHE_HOME", "").strip()
        return (Path(users) if users else Path.home() / ".cache") / "evae"
    except RuntimeError as error:
        raise DataError("there is no home folder for the cache of images; set EVAE_CACHE to a folder") from error


@dataclass(frozen=True)
class Entry:
    """A folder or file that evae wrote to the cache."""

    path: Path
    files: list[Path]  # all that evae wrote in it
    size: int  # their bytes
    used: float  # time of the last use, in seconds since the epoch
    title: str  # the data source and shape of the images, or what else it is
    images: int | None = None  # number of decoded images
    unfinished: bool = False  # a killed process left it behind, or a running one is writing it

    def delete(self) -> bool:
        """Delete it, unless another process is building it; whether it was deleted."""
        lock = self.path.with_name(f"{self.path.name[:32]}.lock")
        is_store = bool(_STORE.match(self.path.name))
        try:
            with FileLock(lock, timeout=0) if is_store else nullcontext():
                for file in self.files:
                    file.unlink(missing_ok=True)
                with suppress(OSError):  # files in it that evae did not write
                    self.path.rmdir()
                with suppress(OSError):  # Windows deletes no file that is open
                    if is_store:
                        lock.unlink()
            return True
        except Timeout:
            return False
        except OSError as error:
            warn(f"{self.path} cannot be deleted ({error.strerror or error})")
            return False


def cache(
    prune: bool = False, older_than: float | None = None, max_size: float | None = None, verify: bool = False
) -> None:
    """List the decoded image caches; --prune deletes those that are not needed, --verify those that are damaged.

    Args:
        prune: delete what was not used for --older-than days, and the least recently used until the cache takes at most
            --max-size gigabytes; also what killed processes left behind. Do not prune what a running command uses.
        older_than: days since the last use.
        max_size: gigabytes (10⁹ bytes).
        verify: read all decoded images and compare them with their digests; damaged ones are named and deleted, so that
            they are decoded again when they are needed.

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
    entries, deleted = _entries(root), list[Entry]()
    if verify:
        entries = [entry for entry in entries if not _is_damaged(entry)]
    for entry in sorted(entries, key=lambda entry: (not entry.unfinished, entry.used)) if prune else []:
        age = time.time() - entry.used
        is_old = older_than is not None and age > older_than * 86400
        is_excess = max_size is not None and sum(entry.size for entry in entries) > max_size * 1e9
        if (age > _GRACE if entry.unfinished else is_old or is_excess) and entry.delete():
            entries.remove(entry)
            deleted.append(entry)
    if prune:
        _show(deleted, f"deleted from {root}")
    _show(entries, f"in {root}")


def _is_damaged(entry: Entry) -> bool:
    """Whether a store is damaged; then it is named, and deleted."""
    if entry.images is None:
        return False
    try:
        Record.read(entry.path, thoroughly=True)
        return False
    except DamagedStoreError as error:
        console.print(f"{entry.path} is damaged ({error}) and deleted", soft_wrap=True)
        return entry.delete()


def _entries(root: Path) -> list[Entry]:
    """All in the cache, the most recently used first."""
    try:
        paths = list(root.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"the image cache in {root} cannot be read ({error.strerror or error})") from error
    entries = list[Entry]()
    for path in paths:
        with suppress(OSError):  # another process has deleted it, or it cannot be read
            entries += _entry(path)
    return sorted(entries, key=lambda entry: -entry.used)


def _entry(path: Path) -> Iterator[Entry]:
    """The store or a part of one, the features or the lock without a store that evae wrote at this path, if any."""
    is_folder, is_temporary = path.is_dir(), path.suffix == ".tmp"
    if path.is_symlink() or not (_STORE if is_folder else _FILE).fullmatch(path.name):
        return
    inside = list(path.iterdir()) if is_folder else [path]
    files = [f for f in inside if not f.is_dir() and _IN_STORE.fullmatch(f.name)] if is_folder else inside
    stats = [file.lstat() for file in files]
    size, used = sum(stat.st_size for stat in stats), max(stat.st_mtime for stat in (path.lstat(), *stats))
    entry = partial(Entry, path, files, size, used)
    if is_folder and not is_temporary:
        with suppress(OSError, ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
            meta = json.loads((path / "meta.json").read_text())
            shape, count = "x".join(map(str, meta["image_shape"])), sum(meta["count"].values())
            yield entry(f"{meta.get('source', 'unknown source')} ({shape})", int(count))
            return
    if is_folder:
        if len(files) == len(inside) and (is_temporary or any(file.suffix in (".u8", ".f64") for file in files)):
            yield entry("unfinished store", unfinished=True)
    elif path.suffix == ".lock":
        if size == 0 and not path.with_suffix("").exists():
            yield entry("lock without a store", unfinished=True)
    elif re.fullmatch(rf"\.?{_GIVEN}.*", path.name):
        used = max(used, path.stat().st_atime)
        yield Entry(path, files, size, used, "data given from Python", unfinished=is_temporary)
    else:
        yield entry("features of hold-out images", unfinished=is_temporary)


def _show(entries: Sequence[Entry], where: str) -> None:
    """A table of 80 columns on standard output."""
    output = Console(markup=False, highlight=False, emoji=False)
    output.print(f"{len(entries)} {'entry' if len(entries) == 1 else 'entries'} {where}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_footer=True)
    table.add_column("data", "total", overflow="fold")
    table.add_column("images", justify="right", no_wrap=True)
    table.add_column("size", decimal(sum(entry.size for entry in entries)), justify="right", no_wrap=True)
    table.add_column("last use", no_wrap=True)
    table.add_column("folder", no_wrap=True)
    for entry in entries:
        title, day = utf8(entry.title), datetime.fromtimestamp(entry.used).date()
        images = "" if entry.images is None else f"{entry.images:,}"
        table.add_row(title, images, decimal(entry.size), str(day), entry.path.name[:12])
    if entries:
        output.print(table)
