"""What a folder holds: the files to read, and what is left out of it and why."""

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evae.data.account import Leavings, LeftOut
from evae.errors import DataError

# Written by file systems and viewers beside the user's images, as previews and copies of them.
_FOREIGN_FOLDERS = {"@eadir": "previews", "__macosx": "metadata", "lost+found": "fragments", "$recycle.bin": "rubbish"}
# Text and archives that lie beside images; whatever else is no image is named.
_SILENT = frozenset(
    {".txt", ".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".md"}
    | {".rst", ".html", ".htm", ".css", ".js", ".py", ".ipynb", ".sh", ".log", ".lock", ".pdf", ".doc", ".docx", ".xls"}
    | {".xlsx", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".db", ".sqlite", ".sqlite3"}
    | {".bib", ".tex", ".names", ".cache", ".idx", ".md5", ".sha1", ".sha256", ".url", ".lnk", ".caption", ".license"}
)
_SILENT_NAMES = frozenset(
    {"license", "licence", "readme", "copying", "notice", "authors", "citation", "changelog", "makefile", "version"}
)


@dataclass
class Scan:
    """The files of a folder (or one file), sorted, and what was left out."""

    root: Path
    files: list[Path] = field(default_factory=list)
    left_out: Leavings = field(default_factory=Leavings)

    def relative(self, path: Path) -> str:
        """A path as it is named in messages and rows."""
        return path.relative_to(self.root).as_posix()

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """The files that have one of these suffixes in any case."""
        return [file for file in self.files if file.suffix.lower() in suffixes]

    def others(self, read: Iterable[Path]) -> Iterator[LeftOut]:
        """The files that are not ``read``, by suffix; those that are surely no images are not warned of."""
        taken, groups = set(read), dict[str, list[Path]]()
        for file in self.files:
            if file not in taken:
                groups.setdefault(file.suffix.lower(), []).append(file)
        for suffix, files in groups.items():
            silent = suffix in _SILENT or all(file.stem.lower() in _SILENT_NAMES for file in files)
            what = f"{suffix} files" if suffix else "files without a suffix"
            yield LeftOut(f"{what}, which are not read", len(files), self.relative(files[0]), lost=not silent)


def scan(path: Path) -> Scan:
    """All files that are not hidden, through links to folders too, each folder once.

    Left out and counted: what cannot be read, links that lead nowhere, devices and pipes, folders of runs of evae,
    and what other programs keep beside images.

    Raises:
        DataError: the folder cannot be read at all.
    """
    if not path.is_dir():
        return Scan(path.parent, [path] if path.is_file() else [])
    found, seen = Scan(path), set[str]()

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == path:
            raise DataError(f"--data {path} cannot be read ({error.strerror}); check its permissions") from error
        found.left_out.add("folders that cannot be read", found.relative(Path(error.filename)), error.strerror or "")

    for folder, folders, names in os.walk(path, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if _enter(found, Path(folder, name))]
        if real not in seen:
            found.files += _regular(found, Path(folder), names)
        seen.add(real)
    found.files.sort()
    return found


def _enter(found: Scan, folder: Path) -> bool:
    """Whether a folder may hold images of the data set."""
    if folder.name.startswith("."):
        return False
    if (rubbish := _FOREIGN_FOLDERS.get(folder.name.lower())) is not None:
        found.left_out.add(f"folders of {rubbish} that other programs keep", found.relative(folder), lost=False)
    elif _is_run(folder):
        found.left_out.add("run folders of evae", found.relative(folder), lost=False)
    else:
        return True
    return False


def _is_run(folder: Path) -> bool:
    """Whether evae train has written here: its configuration, and metrics or checkpoints."""
    try:
        names = {entry.name for entry in folder.iterdir()} if (folder / "config.yaml").exists() else set()
    except OSError:  # named when it is walked
        return False
    return bool(names & {"metrics.jsonl", "checkpoints", "model.safetensors"})


def _regular(found: Scan, folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """The regular files among ``names``, through links."""
    cached = _caches(folder, names)
    for name in names:
        file = folder / name
        if name.startswith("."):
            continue
        if name in cached:
            found.left_out.add("cache files of datasets", found.relative(file), lost=False)
            continue
        try:
            mode = file.stat().st_mode
        except OSError as error:
            what = "links that lead nowhere" if file.is_symlink() else "files that cannot be read"
            found.left_out.add(what, found.relative(file), error.strerror or "")
            continue
        if stat.S_ISREG(mode):
            yield file
        else:
            found.left_out.add("devices, pipes and sockets", found.relative(file))


def _caches(folder: Path, names: Sequence[str]) -> set[str]:
    """The .arrow files that ``datasets`` wrote beside those of a data set it saved, which state.json names."""
    tables = {name for name in names if name.endswith(".arrow")}
    if not tables or not {"state.json", "dataset_info.json"} & set(names):
        return set()
    try:
        named = {file["filename"] for file in json.loads((folder / "state.json").read_text())["_data_files"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        named = set()
    return tables - named if named & tables else {name for name in tables if name.startswith(("cache-", "tmp"))}


def kinds(files: Iterable[Path]) -> dict[str, int]:
    """How many files there are of each suffix, in lower case, the most frequent first."""
    return dict(Counter(file.suffix.lower() or "no suffix" for file in files).most_common())
