"""One cell and its folder: ``python -m evae.benchmark FOLDER`` trains, fits a prior and evaluates.

    cell.json      the resolved options, and the version of evae that computed the cell
    run/           the run folder; the cell is finished when it has an evaluation.json
    failed.json    why the cell failed, if it did
    log.txt        what its commands printed (evae benchmark writes it; the process itself prints to standard error)

Exit codes: 0 finished; 75 stopped, with its state saved: again; 73 another process has the cell; others: failed.
"""

import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from evae.benchmark.cells import Cell
from evae.console import console
from evae.errors import EvaeError, RunError, first_line, printable
from evae.files import replace, temporary_folder
from evae.records import RecordError, as_type, read_json, write_json

AGAIN, BUSY, NEVER = 75, 73, 2
CELLS, RUN, RECORD, FAILED, LOG = "cells", "run", "cell.json", "failed.json", "log.txt"
_LOCK = ".lock"

State = Literal["finished", "running", "failed", "stopped", "waiting"]


@dataclass(frozen=True)
class Record:
    """cell.json: what a cell's process needs, and the version of evae that it is of."""

    evae: str
    train: dict[str, Any]
    fit_prior: dict[str, Any] | None
    evaluate: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """failed.json: the exit code and the sentence that a cell failed with; code 2 is not tried again."""

    code: int
    sentence: str


class CellFolder:
    """The folder of a cell: all that is known of its state.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.run = path, path / RUN

    @property
    def is_finished(self) -> bool:
        """Whether it was evaluated, which comes last."""
        return (self.run / "evaluation.json").is_file()

    @property
    def is_busy(self) -> bool:
        """Whether a process has it."""
        try:
            with self.locked():
                return False
        except Timeout:
            return True
        except OSError:  # a folder that others own
            return False

    @property
    def failure(self) -> Failure | None:
        """Why it failed, if it did."""
        try:
            return read_json(self.path / FAILED, Failure)
        except (OSError, RecordError):
            return None

    @property
    def why(self) -> str:
        """Why it failed, and where its log is; "" where it has not failed."""
        failed = self.failure
        return "" if failed is None else f"{failed.sentence} (log: {self.path / LOG})"

    @property
    def record(self) -> Record | None:
        """Its cell.json; None where there is none, or none that can be used."""
        try:
            return read_json(self.path / RECORD, Record)
        except (OSError, RecordError):
            return None

    @property
    def state(self) -> State:
        """What it is at, as far as its files tell."""
        if self.is_finished:
            return "finished"
        if self.is_busy:
            return "running"
        if self.failure is not None:
            return "failed"
        return "stopped" if self.run.exists() else "waiting"

    @property
    def epochs(self) -> int:
        """The epochs that it was trained for."""
        with suppress(OSError), (self.run / "metrics.jsonl").open("rb") as file:
            return sum(b'"epoch"' in line for line in file)
        return 0

    def write(self, cell: Cell) -> None:
        """Write cell.json.

        Raises:
            RunError: it cannot be written.
        """
        record = Record(version("evae"), cell.train, cell.fit_prior, cell.evaluate)
        write_json(self.path / RECORD, record)

    def forget_failure(self) -> None:
        """Delete failed.json: the cell is started again."""
        with suppress(OSError):
            (self.path / FAILED).unlink()

    def fail(self, code: int, sentence: str) -> None:
        """Write failed.json.

        Raises:
            RunError: it cannot be written.
        """
        write_json(self.path / FAILED, Failure(code, printable(sentence)))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the cell; Timeout where one has it. The lock ends with its process."""
        if not self.path.is_dir():
            yield
            return
        with FileLock(self.path / _LOCK, timeout=0):
            yield


def folder_of(out: Path, cell: Cell) -> CellFolder:
    """The folder of a cell in a results folder."""
    return CellFolder(out / CELLS / cell.name)


def open_cells(out: Path, cells: Sequence[Cell], retry: bool = False) -> list[Cell]:
    """The cells that are still to be computed: equal ones once, without those that failed for good unless ``retry``."""
    found: dict[str, Cell] = {}
    for cell in cells:
        folder = folder_of(out, cell)
        failed = folder.failure
        if not folder.is_finished and (retry or failed is None or failed.code != NEVER):
            found.setdefault(cell.name, cell)
    return list(found.values())


def _take_over_run(folder: CellFolder) -> None:
    """Begin with the run of a finished cell that was trained in the same way and measured otherwise."""
    if folder.run.exists():
        return
    for other in folder.path.parent.glob(f"{folder.path.name.rpartition('-')[0]}-*"):
        if (other / RUN / "evaluation.json").is_file():
            with temporary_folder(folder.run) as temporary:
                ignored = shutil.ignore_patterns("evaluation*", "prior", "report.html", ".*")
                shutil.copytree(other / RUN, temporary, ignore=ignored, dirs_exist_ok=True)
                replace(temporary, folder.run)
            return


def run_cell(folder: CellFolder) -> int:
    """Train, fit a prior and evaluate, as far as that is still to be done; the exit code."""
    try:
        with folder.locked():
            if folder.is_finished:
                return 0
            folder.forget_failure()
            code, sentence = _outcome(folder)
            if code not in (0, AGAIN):
                folder.fail(code, sentence)
            return code
    except Timeout:
        return BUSY


def _outcome(folder: CellFolder) -> tuple[int, str]:
    from evae.training.preemption import signals_as_exceptions

    try:
        with signals_as_exceptions():
            _compute(folder)
        return 0, ""
    except EvaeError as error:
        console.print(f"evae: {error}", soft_wrap=True)
        return getattr(error, "exit_code", NEVER), str(error)
    except KeyboardInterrupt:
        return AGAIN, ""
    except Exception as error:
        traceback.print_exc()
        return 1, f"{type(error).__name__}: {first_line(error)}"


def _compute(folder: CellFolder) -> None:
    from evae.allocator import keep_memory
    from evae.commandline.families import find_family
    from evae.fitting import fit_prior
    from evae.metrics import evaluate
    from evae.training import train

    record = folder.record
    if record is None:
        raise RunError(f"{folder.path / RECORD} is missing or damaged; the same evae benchmark command writes it again")
    keep_memory()
    _take_over_run(folder)
    settings = {name: value for name, value in record.train.items() if name not in ("data", "out", "model")}
    model = as_type(record.train["model"], dict[str, Any])
    factory = find_family(model["class_path"]).factory(model["init_args"])
    train(record.train["data"], folder.run, factory, **settings | {"resume": "auto", "overwrite": False})
    if record.fit_prior is not None:
        fit_prior(folder.run, **record.fit_prior)
    evaluate(folder.run, **record.evaluate, show=False)
