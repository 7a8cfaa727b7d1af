"""``evae benchmark``: fill the table of a spec, whatever interrupts it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from evae import checks
from evae.benchmark.cell import CELLS, folder_of, open_cells
from evae.benchmark.cells import Cell, cells_of, check_models
from evae.benchmark.slurm import submit
from evae.benchmark.spec import Spec, places, read_spec
from evae.benchmark.table import BenchmarkTable
from evae.console import Console, console, warn
from evae.errors import ConfigError, EvaeError, RunError
from evae.files import write_atomically
from evae.outputs import check_output_folder, page_mark
from evae.reporting.pages import render
from evae.reporting.tables import Grid, latex, markdown, print_grid
from evae.rounding import counted
from evae.runs import RunFolder

_SUFFIXES = (".md", ".csv", ".tex", ".html")


class FailedCellsError(EvaeError):
    """Some cells failed; the others are finished and in the table."""

    exit_code = 1


def benchmark(
    spec: Path,
    out: Path = Path("results"),
    data: list[str] | None = None,
    workers: int = 1,
    shard: str | None = None,
    slurm: str | None = None,
    slurm_concurrent: int | None = None,
    status: bool = False,
    table: bool = False,
    retry: bool = False,
    trust_spec: bool = False,
    overwrite: bool = False,
) -> Path:
    """Train and evaluate every cell of a spec, and write its table; the same command continues after any interruption.

    A cell is finished once; specs share equal cells. The table is in table.md, .csv, .tex and .html, and under the
    name of the spec.

    Args:
        spec: the file: options of evae train, of which any may be a grid, what to measure, and the table.
        out: folder of the results; several commands, also on several machines, may share it.
        data: where data named in the spec are, NAME=PATH or NAME=ID of the hub; may be repeated.
        workers: cells to compute at a time, each in a process.
        shard: compute the i-th of n parts of the cells only, as i/n with i from 0; for machines without a scheduler.
        slurm: submit the cells to SLURM as one job array, and return; the value is options of sbatch, in quotes, such
            as "--partition=gpu --time=2:00:00 --gres=gpu:1".
        slurm_concurrent: cells that SLURM computes at a time; default: as many as it can.
        status: print what each cell is at, and compute nothing.
        table: print and write the table of the cells that are finished, and compute nothing.
        retry: also compute cells again that failed for good.
        trust_spec: let the spec name code of your own, which is imported and run.
        overwrite: replace files of the tables' names also where they are not of evae benchmark.

    Returns:
        The folder of the results.

    Raises:
        UsageError: the spec cannot be understood, or some of its cells cannot work.
        ConfigError: a setting cannot work, or memory does not hold so many workers.
        RunError: the results cannot be written, or SLURM does not take the cells.
        InterruptedBenchmark: Ctrl-C or SIGTERM; all cells are saved.
        FailedCellsError: some cells failed.
    """
    checks.whole_number("workers", workers, most=1024)
    _check_slurm(slurm, slurm_concurrent, workers)
    of, out = read_spec(Path(spec), places(data)), Path(out)
    part = _part(shard)
    cells = cells_of(of, trust_spec)
    if status:
        _print_status(cells, out)
    if status and not table:
        return out
    check_folder(out, _names(of), overwrite)
    if not table:
        own = [cell for cell in cells if cell.index % part[1] == part[0]]
        todo = _todo(of, own, out, retry)
        if slurm is not None and todo:
            done = len({cell.name for cell in own}) - len(todo)
            Console().print(submit(of.name, out, todo, done, slurm, slurm_concurrent), soft_wrap=True)
            return out
        _compute(todo, out, workers)
    grid, notes = _write_table(of, cells, out)
    print_grid(grid)
    for note in [*notes, f"table.md, table.csv, table.tex and table.html in {out}"]:
        console.print(note, soft_wrap=True)
    if not table:
        check_failures(own, out)
    return out


def _part(shard: str | None) -> tuple[int, int]:
    """i and n of --shard i/n."""
    if shard is None:
        return 0, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(f"--shard takes i/n, i from 0 to n - 1, not {shard}")
    return int(match[1]), int(match[2])


def _names(spec: Spec) -> list[str]:
    return [f"{stem}{suffix}" for stem in dict.fromkeys(("table", spec.name)) for suffix in _SUFFIXES]


def compute_cells(of: Spec, cells: Sequence[Cell], out: Path, workers: int = 1, retry: bool = False) -> None:
    """Compute the cells of a spec that are not finished, ``workers`` at a time; with ``retry`` those that failed, too.

    Raises:
        UsageError: some models cannot be built.
        ConfigError: memory does not hold so many workers.
        InterruptedBenchmark: Ctrl-C or SIGTERM; all cells are saved.
    """
    _compute(_todo(of, cells, out, retry), out, workers)


def check_folder(out: Path, names: Sequence[str], overwrite: bool) -> None:
    """Make the results folder, or raise RunError where that cannot be, or it is something else."""
    if RunFolder(out).is_run:
        raise RunError(f"--out {out} is a run folder; name another folder for the results")
    check_output_folder(out, names, "benchmark", overwrite)
    try:
        (out / CELLS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"--out {out} cannot be written ({error.strerror}); name another folder") from error
    for folder in (out, out / CELLS):
        if not os.access(folder, os.W_OK):
            raise RunError(f"--out {out} cannot be written: {folder} is read-only; name another folder")


def _check_slurm(options: str | None, concurrent: int | None, workers: int) -> None:
    if options is None and concurrent is not None:
        raise ConfigError("--slurm-concurrent is for --slurm")
    if concurrent is not None:
        checks.whole_number("slurm_concurrent", concurrent)
    if options is not None and workers != 1:
        raise ConfigError("--workers are processes of this machine; with --slurm give --slurm-concurrent")


def _todo(spec: Spec, cells: Sequence[Cell], out: Path, retry: bool) -> list[Cell]:
    """The cells that are still to be computed, all of which can be; the results hold a copy of the spec then."""
    todo = open_cells(out, cells, retry)
    check_models(spec, todo)
    _warn_of_other_data(cells, out)
    write_atomically(out / "specs" / f"{spec.name}.yaml", spec.content)
    return todo


def _compute(cells: Sequence[Cell], out: Path, workers: int) -> None:
    from evae.benchmark.run import Scheduler, check_workers  # with all that trains, which tables do without

    if cells:
        Scheduler(out, cells, check_workers(workers, len(cells))).run()


def _warn_of_other_data(cells: Sequence[Cell], out: Path) -> None:
    """Say where finished cells had images from another place, which are taken for the same."""
    moved: dict[tuple[str, str], int] = {}
    for cell in cells:
        folder = folder_of(out, cell)
        record = folder.record if folder.is_finished else None
        if record is not None and record.train.get("data") != cell.train["data"]:
            key = str(record.train.get("data")), str(cell.train["data"])
            moved[key] = moved.get(key, 0) + 1
    for (before, now), count in moved.items():
        warn(f"{counted(count, 'finished cell')} had the images of {before}, not {now}, and will not be computed again")


def _write_table(spec: Spec, cells: Sequence[Cell], out: Path) -> tuple[Grid, list[str]]:
    content = BenchmarkTable(spec, cells, out)
    grid, notes = content.grid()
    page = render(
        "benchmark.html",
        generator=page_mark("benchmark"),
        name=spec.name,
        grid=grid,
        notes=notes,
        spec=spec.content,
    )
    label = re.sub(r"[^\w-]+", "-", spec.name)
    texts = {
        ".html": page,  # first: it marks the others as tables of a benchmark
        ".md": markdown(grid, notes),
        ".csv": content.csv(),
        ".tex": latex(grid, notes, f"Benchmark {spec.name}.", label),
    }
    for stem in dict.fromkeys((spec.name, "table")):
        for suffix, text in texts.items():
            write_atomically(out / f"{stem}{suffix}", text)
    return grid, notes


def _print_status(cells: Sequence[Cell], out: Path) -> None:
    """How many cells are at what, and those that were begun and are not finished, one by one."""
    folders = {cell.name: folder_of(out, cell) for cell in cells}
    states = {name: folder.state for name, folder in folders.items()}
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state] = counts.get(state, 0) + 1
    told = ", ".join(f"{count} {state}" for state, count in counts.items())
    begun = [cell for cell in cells if states[cell.name] in ("running", "failed", "stopped")]
    if begun:
        table = Table()
        for title in ("cell", "state", "epochs", "why"):
            table.add_column(title, overflow="fold")
        for cell in begun:
            folder = folders[cell.name]
            epochs = f"{folder.epochs} of {cell.train['epochs']}"
            table.add_row(*map(Text, (cell.name, states[cell.name], epochs, folder.why)))
        Console().print(table)
    Console().print(f"{counted(len(states), 'cell')}: {told}")


def check_failures(cells: Sequence[Cell], out: Path) -> None:
    """Raise FailedCellsError where cells have failed."""
    failed = list(dict.fromkeys(cell.name for cell in cells if folder_of(out, cell).state == "failed"))
    if failed:
        named = f"{failed[0]} and {len(failed) - 1} more" if len(failed) > 1 else failed[0]
        total = len({cell.name for cell in cells})
        raise FailedCellsError(
            f"{len(failed)} of {counted(total, 'cell')} failed ({named}); --status shows why, --retry runs them again"
        )
