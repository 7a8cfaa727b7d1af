"""Cells as processes on one machine: started, watched, started again where that was asked for, and stopped together."""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress, TaskID

from evae.benchmark.cell import AGAIN, BUSY, LOG, CellFolder, folder_of
from evae.benchmark.cells import Cell
from evae.console import console, progress
from evae.errors import ConfigError, EvaeError
from evae.rounding import counted
from evae.training.preemption import StoppedError, signals_as_exceptions

_POLL = 0.2  # seconds
_LOOK_AGAIN = 2.0  # seconds between looks at cells that other processes have
_TRIES = 3  # of a cell that stops again and again without going on
_WORKER = 1.0  # GB that a small model's process takes, with torch


class InterruptedBenchmark(EvaeError):
    """Ctrl-C or SIGTERM came; the cells have saved their state."""

    def __init__(self, code: int, name: str) -> None:
        self.exit_code = code
        super().__init__(f"interrupted by {name}; all cells are saved, and the same command continues")


@dataclass
class _Child:
    """A process that computes a cell, in one of the places for workers."""

    cell: Cell
    place: int
    process: "subprocess.Popen[bytes]"
    started: float = field(default_factory=time.monotonic)


def check_workers(workers: int, count: int) -> int:
    """The workers that there is work for; ConfigError where memory does not hold them."""
    workers = max(1, min(workers, count))
    free = _free_memory()
    if workers > 1 and free is not None and workers * _WORKER > free:
        most = max(1, int(free / _WORKER))
        raise ConfigError(
            f"--workers {workers} need about {workers * _WORKER:.0f} GB of memory, {free:.1f} GB are free; "
            f"use at most {most}"
        )
    return workers


def _free_memory() -> float | None:
    """In GB; None where the system does not tell."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) / 1e6
    return None


class Scheduler:
    """Computes cells by processes of their own.

    Args:
        out: the results folder.
        cells: the cells, no two of one name.
        workers: how many processes there are at a time.
    """

    def __init__(self, out: Path, cells: Sequence[Cell], workers: int) -> None:
        self.out, self.cells, self.workers = out, cells, workers
        self._waiting, self._elsewhere = deque(cells), list[Cell]()
        self._running: list[_Child] = []
        self._tries: dict[str, tuple[int, int]] = {}
        self._ended = 0
        self._threads, self._devices = _threads(workers), _devices()
        self._epochs = {cell.name: folder_of(out, cell).epochs for cell in cells}
        self._looked = 0.0

    def run(self) -> None:
        """Compute the cells until each is finished or has failed.

        Raises:
            InterruptedBenchmark: Ctrl-C or SIGTERM; all processes have ended.
            RunError: the results folder cannot be written.
        """
        console.print(self._shared_out(), soft_wrap=True)
        try:
            with signals_as_exceptions(), progress("{task.fields[cells]}") as shown:
                task = shown.add_task("epochs", total=self._total(), cells="")
                try:
                    self._work(shown, task)
                finally:
                    self._stop()
        except StoppedError as error:
            raise InterruptedBenchmark(AGAIN, str(error).split()[1]) from None
        except KeyboardInterrupt:
            raise InterruptedBenchmark(128 + signal.SIGINT, "SIGINT") from None

    def _shared_out(self) -> str:
        shares = [counted(self._threads, "thread")]
        if self._devices:
            shares.append(f"{counted(len(self._devices), 'GPU')} in turn")
        told = f"{counted(self.workers, 'worker')} with {shares[0]} each"
        return f"{counted(len(self.cells), 'cell')} to compute by {', '.join([told, *shares[1:]])}"

    def _total(self) -> int:
        return sum(cell.train["epochs"] for cell in self.cells)

    def _work(self, shown: Progress, task: TaskID) -> None:
        while self._waiting or self._running or self._elsewhere:
            while self._waiting and len(self._running) < self.workers:
                self._start(self._waiting.popleft())
            time.sleep(_POLL)
            for child in [child for child in self._running if child.process.poll() is not None]:
                self._running.remove(child)
                self._end(child)
            self._look(shown, task)

    def _start(self, cell: Cell) -> None:
        folder = folder_of(self.out, cell)
        if folder.is_busy:
            self._elsewhere.append(cell)
            return
        folder.forget_failure()
        folder.write(cell)
        place = min(set(range(self.workers)) - {child.place for child in self._running})
        environment = {**os.environ, "OMP_NUM_THREADS": str(self._threads)}
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[place % len(self._devices)]
        process = _spawned(folder, environment)
        self._running.append(_Child(cell, place, process))

    def _end(self, child: _Child) -> None:
        """Note how a cell's process ended."""
        folder, code = folder_of(self.out, child.cell), child.process.returncode
        if code == BUSY:
            self._elsewhere.append(child.cell)
            return
        if code == AGAIN and self._goes_on(child.cell, folder):
            self._waiting.append(child.cell)
            return
        self._ended += 1
        self._epochs[child.cell.name] = folder.epochs
        if code == 0:
            minutes = (time.monotonic() - child.started) / 60
            self._tell(f"{child.cell.name}: finished in {minutes:.1f} minutes")
            return
        if folder.failure is None:
            folder.fail(code, _cause(code, folder))
        self._tell(f"{child.cell.name}: failed: {folder.why}")

    def _goes_on(self, cell: Cell, folder: CellFolder) -> bool:
        """Whether a cell that was stopped has come further than last time, or may not have had the time to."""
        times, before = self._tries.get(cell.name, (0, -1))
        with suppress(OSError):
            now = (folder.run / "checkpoints").stat().st_mtime_ns
            times, before = (1, now) if now != before else (times + 1, before)
            self._tries[cell.name] = times, before
            return times < _TRIES
        self._tries[cell.name] = times + 1, before
        return times + 1 < _TRIES

    def _tell(self, sentence: str) -> None:
        console.print(f"{self._ended} of {len(self.cells)}: {sentence}", soft_wrap=True)

    def _look(self, shown: Progress, task: TaskID) -> None:
        """Update the display, and see what became of cells that other processes have."""
        if time.monotonic() - self._looked < _LOOK_AGAIN and self._running:
            return
        self._looked = time.monotonic()
        for cell in [*self._elsewhere, *(child.cell for child in self._running)]:
            self._epochs[cell.name] = folder_of(self.out, cell).epochs
        for cell in list(self._elsewhere):
            folder = folder_of(self.out, cell)
            if folder.is_finished or not folder.is_busy:
                self._elsewhere.remove(cell)
                if folder.is_finished or folder.failure is not None:
                    self._ended += 1
                    self._tell(f"{cell.name}: computed by another process")
                else:
                    self._waiting.append(cell)
        cells = f"{self._ended} of {counted(len(self.cells), 'cell')} done, {len(self._running)} running"
        if self._elsewhere:
            cells += f", {len(self._elsewhere)} in other processes"
        shown.update(task, completed=min(sum(self._epochs.values()), self._total()), cells=cells)

    def _stop(self) -> None:
        """Ask the processes that still run to save and end, and wait for them; there are none unless interrupted."""
        for child in self._running:
            child.process.terminate()
        if self._running:
            console.print(f"waiting for {counted(len(self._running), 'cell')} to save", soft_wrap=True)
        for child in self._running:
            child.process.wait()


def _spawned(folder: CellFolder, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    """The process of a cell, in a session of its own: Ctrl-C reaches the scheduler alone, which passes it on."""
    command = [sys.executable, "-m", "evae.benchmark", str(folder.path)]
    with (folder.path / LOG).open("ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _threads(workers: int) -> int:
    """For each worker: as the user says, or an equal part of the cores."""
    with suppress(KeyError, ValueError):
        return max(1, int(os.environ["OMP_NUM_THREADS"]))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)


def _devices() -> list[str]:
    """The GPUs, by the names that CUDA_VISIBLE_DEVICES has for them."""
    import torch

    if not torch.cuda.is_available():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


def _cause(code: int, folder: CellFolder) -> str:
    """What is known of a process that has not said why it ended."""
    if code == AGAIN:
        return f"was stopped {_TRIES} times without coming further"
    if code < 0:
        name = signal.Signals(-code).name
        lack = ", perhaps for lack of memory" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{lack}"
    with suppress(OSError):
        lines = (folder.path / LOG).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its process ended with exit code {code}"
    return f"its process ended with exit code {code}"
