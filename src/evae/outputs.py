"""Where results go: none replaces a file that evae did not write as the same kind of result."""

import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from evae import figures
from evae.data import absolute
from evae.data.streams import PREFIX
from evae.errors import RunError
from evae.files import remove_leftovers
from evae.records import read_json
from evae.runs import RunFolder
from evae.runs.folder import ACCOUNT, CHECKPOINTS, CONFIG, METRICS

Kind = Literal[
    "samples",
    "reconstruction",
    "codes",
    "report",
    "comparison",
    "kernels",
    "contact sheet",
    "benchmark",
    "map",
    "audit",
    "export",
]

_IMAGES = ("samples", "reconstruction", "contact sheet")
_PARQUET_KEY = b"evae"
_HEAD = 2048  # bytes of a page that have its mark
_WEIGHTS = "model.safetensors"
_RESERVED = {CONFIG, ACCOUNT, METRICS, CHECKPOINTS, _WEIGHTS, "config.json", "README.md", "prior", "tensorboard"}
_RESERVED |= {"columns.json"}
_PAGES = {"comparison": "comparison.html", "audit": "audit.html"}  # their marks are those of the tables beside them
EXPORT_RECORD = "model.json"  # its mark is also that of the networks beside it


def mark(kind: Kind) -> str:
    """What a result of this kind says of where it comes from."""
    return f"evae {kind}"


def parquet_mark(kind: Kind) -> dict[bytes, bytes]:
    """The mark as metadata of a Parquet file's schema."""
    return {_PARQUET_KEY: mark(kind).encode()}


def page_mark(kind: Kind) -> str:
    """The mark as the generator of a page, its first element."""
    return f'<meta name="generator" content="{mark(kind)}">'


def check_output(
    path: Path, kind: Kind, overwrite: bool = False, default: Path | None = None, data: Sequence[Path] = ()
) -> None:
    """Raise RunError unless a result may be written to a file; delete what killed processes have left of earlier ones.

    Images are not written among those of the data. An existing file is replaced only if it is the command's default
    output, has the mark of the same kind of result, or ``overwrite`` says so; other files of a run and files of the
    data are never replaced.

    Args:
        path: the file.
        kind: of result.
        overwrite: replace other files, too.
        default: the file that the command writes unless the user names another.
        data: files and folders of the data that the command reads; see ``data_of``.
    """
    _check_file(path, kind, overwrite, default, data)
    remove_leftovers(path.parent)


def _check_file(path: Path, kind: Kind, overwrite: bool, default: Path | None, data: Sequence[Path]) -> None:
    _check_name(path)
    mode = _mode(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise RunError(f"--out {path} is a folder; name the file to write")
    if mode is not None and not stat.S_ISREG(mode):
        raise RunError(f"--out {path} is a device or a pipe; name a regular file")
    if path == default:
        return
    run = _run_of(path)
    place = path.absolute().resolve()
    if run is None and kind in _IMAGES and any(place.parent.is_relative_to(folder) for folder in data):
        raise RunError(f"--out {path} is in the folder of the data and would become one of its images; choose another")
    if mode is None:
        return
    if place in data:
        raise RunError(f"--out {path} would replace the data; choose another --out")
    if _mark_of(path, kind) == mark(kind):
        return
    if run is not None:
        raise RunError(f"--out {path} would replace a file of the run {run}; choose another --out")
    if any(place.is_relative_to(folder) for folder in data):
        raise RunError(f"--out {path} would replace a file of the data; choose another --out")
    if not overwrite:
        what = f"{path} exists, and evae did not write it as {_NAMES[kind]}"
        raise RunError(f"{what}; choose another --out, or replace it with --overwrite")


def check_output_folder(
    folder: Path, names: Iterable[str], kind: Kind, overwrite: bool = False, data: Sequence[Path] = ()
) -> None:
    """Raise RunError unless results may be written to these files of a folder; see ``check_output``."""
    _check_name(folder)
    mode = _mode(folder)
    if mode is not None and not stat.S_ISDIR(mode):
        raise RunError(f"--out {folder} is no folder; name a folder")
    _run_of(folder)
    for name in names:
        _check_file(folder / name, kind, overwrite, None, data)
    remove_leftovers(folder)


def data_of(run: RunFolder | None, data: str | None = None) -> list[Path]:
    """The files and folders that hold the images of a run, and those that ``data`` names, where they are local."""
    named = [] if data is None else [data]
    if run is not None and run.is_run:
        named.append(run.config()["data"])
    paths = []
    for name in named:
        path = Path(absolute(name).removeprefix(PREFIX))
        if path.is_absolute():
            paths.append(path)
    return paths


_NAMES: dict[Kind, str] = {
    "samples": "samples",
    "reconstruction": "a reconstruction",
    "codes": "codes",
    "report": "a report",
    "comparison": "a comparison",
    "kernels": "a figure of kernels",
    "contact sheet": "a contact sheet",
    "benchmark": "a table of a benchmark",
    "map": "a map",
    "audit": "an audit",
    "export": "an exported model",
}


def _check_name(path: Path) -> None:
    """Refuse '', '.' and '/', which Path makes of several spellings."""
    if path.name in ("", "..") or "\0" in str(path):
        raise RunError(f"--out {str(path)!r} has no name of its own; name a new file or folder")


def _mode(path: Path) -> int | None:
    """Of the file or folder that is there, links followed; None where there is none."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RunError(f"--out {path} cannot be used ({error.strerror})") from error


def _run_of(path: Path) -> Path | None:
    """The run folder that a file is in; RunError where its place is one of the run's own."""
    place = path.absolute().resolve()
    for folder in place.parents:
        if (folder / CONFIG).is_file() and ((folder / METRICS).exists() or (folder / _WEIGHTS).exists()):
            first = place.relative_to(folder).parts[0]
            if first in _RESERVED or re.fullmatch(r"evaluation.*\.(json|safetensors)", first):
                raise RunError(f"--out {path} is the place of a file of the run {folder}; choose another --out")
            return folder
    return None


def _mark_of(path: Path, kind: Kind) -> str:
    """The mark of a file as results of this kind have it, "" where it has none."""
    try:
        if kind == "codes" and path.suffix.lower() == ".h5ad":
            from h5py import File

            with File(path) as table:
                return str(table["uns/evae/mark"].asstr()[()])
        if kind == "codes" or path.suffix.lower() == ".parquet":
            metadata = pq.read_schema(path).metadata or {}
            return metadata.get(_PARQUET_KEY, b"").decode()
        if kind in ("report", "comparison", "benchmark", "map", "audit"):
            page = path.with_suffix(".html") if kind == "benchmark" else path
            with page.with_name(_PAGES.get(kind, page.name)).open("rb") as file:
                return mark(kind) if page_mark(kind).encode() in file.read(_HEAD) else ""
        if kind == "export":
            return str(read_json(path.with_name(EXPORT_RECORD), dict[str, Any]).get("generator", ""))
        return figures.mark_of(path)
    except Exception:  # whatever else the file is, decoders raise anything
        return ""
