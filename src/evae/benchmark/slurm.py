"""Cells as one job array of SLURM: a batch script and its submission; nothing of evae waits for it.

slurm/SPEC.sh       the last script of a spec, as it was submitted
slurm/JOB.json      the cells of a job array, in the order of its tasks
slurm/JOB_TASK.log  what SLURM says of a task; what its cell prints is in the cell's log.txt
"""

import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evae.benchmark.cell import CELLS, folder_of
from evae.benchmark.cells import Cell
from evae.errors import ConfigError, RunError
from evae.files import write_atomically
from evae.records import RecordError, read_json, write_json
from evae.rounding import counted

SLURM = "slurm"
_MAX_BYTES = 2**22  # of a submission: ten thousand names of cells

_HEAD = """\
#!/bin/bash
# One cell of a benchmark per task; written by evae benchmark.
#SBATCH --job-name=evae-{name}
#SBATCH --array=0-{last}{concurrent}
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

python={python}
cells={folder}
names=(
{names}
)
"""

_BODY = """\
folder=$cells/${names[SLURM_ARRAY_TASK_ID]}
task=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
saved() { stat --format=%y "$folder/run/checkpoints" 2>/dev/null; }

before=$(saved)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_ON_NODE:-1}}"
unset SLURM_NTASKS SLURM_PROCID  # a cell is one process, started without srun
"$python" -m evae.benchmark "$folder" >>"$folder/log.txt" 2>&1 &
process=$!

# USR1 comes two minutes before the time is over, to this script alone, which passes it on. TERM comes to the process
# as well, when the job is cancelled, requeued or preempted; what happens then is for SLURM to decide.
trap 'signalled=yes; kill -USR1 "$process"' USR1
trap 'signalled=yes; ended=yes' TERM
while signalled=; wait "$process"; code=$?; [ -n "$signalled" ]; do :; done
[ "$code" -eq $((128 + $(kill -l USR1))) ] && code=75  # it had only just begun, and had nothing to save

case $code in
  73) echo "another process has $folder"; exit 0 ;;
  75)
    if [ -n "$ended" ]; then
      echo "task $task was ended; its cell has saved its state"
    elif [ "$(saved)" != "$before" ] || [ "${SLURM_RESTART_COUNT:-0}" -lt 3 ]; then
      echo "task $task was stopped, with its state saved, and is requeued"
      scontrol requeue "$task"
    else
      echo "task $task was stopped again without coming further; it needs a longer --time"
    fi ;;
esac
exit "$code"
"""


@dataclass(frozen=True)
class Submission:
    """JOB.json: a job array, its cluster where there are several, and the names of its cells by the tasks' numbers."""

    job: int
    cluster: str
    cells: list[str]


def submit(name: str, out: Path, cells: Sequence[Cell], done: int, options: str, concurrent: int | None) -> str:
    """Submit the cells that no process and no job has, as one job array; a sentence that says what was done.

    Args:
        name: of the spec.
        out: the results folder.
        cells: those to be computed, no two of one name.
        done: how many others are finished, or failed for good.
        options: of sbatch.
        concurrent: tasks that run at a time; None: as many as SLURM can.

    Raises:
        ConfigError: the options cannot be passed on.
        RunError: SLURM is missing or refuses the array, or the results folder cannot be written.
    """
    words = _words(options)
    queued = _queued(out, {cell.name for cell in cells})
    busy = {cell.name for cell in cells if folder_of(out, cell).is_busy} - queued
    left = [cell for cell in cells if cell.name not in queued | busy]
    others = {"finished or failed for good": done, "in the queue": len(queued), "in other processes": len(busy)}
    left_out = ", ".join(f"{count} {why}" for why, count in others.items() if count)
    if not left:
        return f"no cell is submitted: {left_out}"
    for cell in left:
        folder_of(out, cell).write(cell)
    script = out / SLURM / f"{name}.sh"
    write_atomically(script, _script(name, out, left, concurrent))
    log = str(script.parent.absolute()).replace("%", "%%") + "/%A_%a.log"
    submission = _submitted(_run("sbatch", "--parsable", f"--output={log}", *words, str(script.absolute())), left)
    write_json(script.parent / f"{submission.job}.json", submission)
    told = f"job {submission.job} of SLURM computes {counted(len(left), 'cell')} ({script})"
    told += f"; left out: {left_out}" if left_out else ""
    return f"{told}; --status shows how far they are, --table writes the table of those that are finished"


def _words(options: str) -> list[str]:
    """The options as words, of which none can be taken for the script."""
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--slurm {options}: {error}; it takes options of sbatch as a shell would") from error
    for word, before in zip(words, ["", *words], strict=False):
        if not word.startswith("-") and (not before.startswith("-") or "=" in before):
            raise ConfigError(f"--slurm takes options of sbatch, as in --slurm '--partition=gpu', and {word!r} is none")
        if re.match(r"-a|--ar|--wr", word):
            raise ConfigError(f"--slurm {word}: evae benchmark sets the tasks itself; --slurm-concurrent limits them")
    return words


def _script(name: str, out: Path, cells: Sequence[Cell], concurrent: int | None) -> str:
    head = _HEAD.format(
        name=re.sub(r"[^\w.-]+", "-", name),
        last=len(cells) - 1,
        concurrent="" if concurrent is None else f"%{concurrent}",
        python=shlex.quote(sys.executable),
        folder=shlex.quote(str((out / CELLS).absolute())),
        names="\n".join(cell.name for cell in cells),
    )
    return head + _BODY


def _run(*command: str) -> str:
    """What a command of SLURM prints.

    Raises:
        RunError: it is missing or failed.
    """
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, errors="replace")
    except OSError as error:
        raise RunError(
            f"{command[0]} cannot be run ({error.strerror}); --slurm is for machines from which jobs are submitted to "
            "SLURM, --shard i/n for those without"
        ) from error
    if done.returncode:
        said = [re.sub(r"^(\w+: )?(\w* ?error: )?", "", line) for line in done.stderr.splitlines() if line.strip()]
        raise RunError(f"{command[0]} failed: {'; '.join(said) or f'exit code {done.returncode}'}{_advice(said)}")
    return done.stdout


def _advice(said: Sequence[str]) -> str:
    is_long = any("array" in line for line in said)
    return "; --shard i/n submits a part, where there are more tasks than an array may have" if is_long else ""


def _submitted(printed: str, cells: Sequence[Cell]) -> Submission:
    """The submission that sbatch reports as JOB or JOB;CLUSTER."""
    lines = printed.strip().splitlines()
    match = re.fullmatch(r"(\d{1,18})(?:;(.*))?", lines[-1]) if lines else None
    if match is None:
        raise RunError(
            f"sbatch reported no job number{f', but {lines[0]}' if lines else ''}; see the options of --slurm"
        )
    return Submission(int(match[1]), match[2] or "", [cell.name for cell in cells])


def _queued(out: Path, names: Collection[str]) -> set[str]:
    """Those of the cells that wait or run in a job array submitted before."""
    found = set[str]()
    for path in (out / SLURM).glob("*.json"):
        with suppress(OSError, RecordError):
            submission = read_json(path, Submission, _MAX_BYTES)
            if not found.issuperset(set(submission.cells) & set(names)):
                found |= {submission.cells[i] for i in _tasks(submission) if i < len(submission.cells)}
    return found & set(names)


def _tasks(submission: Submission) -> list[int]:
    """The tasks of a job array that wait or run."""
    clusters = [f"--clusters={submission.cluster}"] if submission.cluster else []
    try:
        printed = _run("squeue", "--noheader", "--array", "--format=%K", f"--jobs={submission.job}", *clusters)
    except RunError as error:
        if "Invalid job id" in str(error):  # it is long over
            return []
        raise
    return [int(word) for word in printed.split() if word.isdecimal()]
