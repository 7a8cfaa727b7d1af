"""Cells as processes: shared, finished once, failing alone, killed at any moment with the same table in the end."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from evae.benchmark import benchmark
from evae.benchmark import run as scheduling
from evae.benchmark.cell import AGAIN, BUSY, CellFolder, folder_of, run_cell
from evae.benchmark.run import check_workers
from evae.cli import main
from evae.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of fork, from Python 3.12 on
DIMENSIONS = "latent_dim: {grid: [2, 3]}"


def table(out):
    return [(out / f"table{suffix}").read_text() for suffix in (".md", ".csv", ".tex")]


def stamps(out):
    """When the model of each cell was written."""
    return {path.parents[1].name: path.stat().st_mtime_ns for path in out.glob("cells/*/run/model.safetensors")}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results"


def test_cells_are_computed_once_and_shared(spec, out, forked, capsys):
    benchmark(spec(("[2, 3]", "[2]")), out, workers=2)
    first, text = stamps(out), table(out)
    assert len(first) == 2
    assert "2 cells to compute by 2 workers with" in capsys.readouterr().err
    benchmark(spec(("[2, 3]", "[2]")), out)
    assert table(out) == text
    benchmark(spec(("[0, 1]", "[0]"), name="other.yaml"), out)  # one of its two cells is there
    assert stamps(out).items() > first.items()
    assert len(stamps(out)) == 3
    assert {p.name for p in out.glob("*.md")} == {"spec.md", "other.md", "table.md"}
    assert (out / "table.md").read_text() == (out / "other.md").read_text()


def test_a_run_is_measured_otherwise_without_training(spec, out, forked):
    one = ("[2, 3]", "[2]"), ("[0, 1]", "[0]")
    benchmark(spec(*one), out)
    benchmark(spec(*one, ("evaluate: {", "fit_prior: {kind: gaussian, device: cpu}\nevaluate: {repeats: 2, ")), out)
    first, second = sorted(out.glob("cells/*"), key=lambda folder: (folder / "run" / "prior").exists())
    assert first.name.rpartition("-")[0] == second.name.rpartition("-")[0]
    assert "epoch 1/1" in (first / "log.txt").read_text()
    assert "epoch 1/1" not in (second / "log.txt").read_text()
    weights = [(folder / "run" / "model.safetensors").read_bytes() for folder in (first, second)]
    assert weights[0] == weights[1]
    repeats = [json.loads((f / "run" / "evaluation.json").read_text())["repeats"] for f in (first, second)]
    assert repeats == [1, 2]


class Ended:
    """A process that has ended."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode


def test_shards_compute_their_part(spec, out, forked, monkeypatch):
    names = []
    monkeypatch.setattr(scheduling, "_spawned", lambda folder, _: names.append(folder.path.name) or Ended(1))
    for shard in ("0/3", "1/3", "2/3"):
        assert main(["benchmark", str(spec()), "--out", str(out), "--shard", shard]) == 1
    assert len(names) == len(set(names)) == 4


def test_a_cell_that_fails_is_a_row(spec, computed, out, forked, capsys, monkeypatch):
    path = spec((f"EVAE, init_args: {{{DIMENSIONS}}}", "VampVAE, init_args: {pseudo_inputs: {grid: [4, 500]}}"),
                ("rows: model.latent_dim", "rows: model.pseudo_inputs"), ("[0, 1]", "[0]"))  # fmt: skip
    computed(path, lambda cell: {"bce": 1.0} if cell.value("model.pseudo_inputs") == "4" else None, out)
    assert main(["benchmark", str(path), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    sentence = "the model initialises from 500 training images, but there are only 48"
    assert "1 of 2 cells failed" in said
    assert f"failed: {sentence} (log: {out}" in said
    row = next(line for line in (out / "table.md").read_text().splitlines() if line.startswith("| 500"))
    assert row == "| 500 | failed | failed | failed |"
    assert sentence in next(out.glob("cells/*500*/log.txt"), next(out.glob("cells/*/log.txt"))).read_text() + said
    assert main(["benchmark", str(path), "--out", str(out), "--status"]) == 0
    assert "1 finished" in (shown := capsys.readouterr().out)
    assert "1 failed" in shown
    monkeypatch.setattr(scheduling, "_spawned", lambda *_: pytest.fail("a cell that failed for good was run again"))
    assert main(["benchmark", str(path), "--out", str(out)]) == 1
    with pytest.raises(pytest.fail.Exception):
        main(["benchmark", str(path), "--out", str(out), "--retry"])


@pytest.mark.parametrize(
    ("codes", "state", "sentence"),
    [
        ([AGAIN, BUSY, 0], "finished", ""),
        ([AGAIN] * 3, "failed", "was stopped 3 times without coming further"),
        ([-9], "failed", "its process was ended by SIGKILL, perhaps for lack of memory"),
        ([1], "failed", "its process ended with exit code 1"),
    ],
)
def test_exit_codes(spec, cells, computed, out, forked, monkeypatch, codes, state, sentence):
    path, left = spec(("[2, 3]", "[2]"), ("[0, 1]", "[0]")), list(codes)

    def spawned(folder, environment):
        code = left.pop(0)
        if code == 0:
            computed(path, lambda _: {"bce": 1.0}, out)
        return Ended(code)

    monkeypatch.setattr(scheduling, "_spawned", spawned)
    assert main(["benchmark", str(path), "--out", str(out)]) == (state == "failed")
    folder = folder_of(out, cells(path)[0])
    assert folder.state == state
    assert not left
    assert (folder.failure.sentence if folder.failure else "") == sentence


def test_a_cell_that_another_process_has(spec, cells, out):
    (cell,) = cells(spec(("[2, 3]", "[2]"), ("[0, 1]", "[0]")))
    folder = folder_of(out, cell)
    folder.write(cell)
    assert folder.state == "waiting"
    pid = os.fork()
    if not pid:
        with folder.locked():
            time.sleep(60)
        os._exit(0)
    try:
        while folder.state != "running":
            time.sleep(0.01)
        assert run_cell(folder) == BUSY
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert folder.state == "waiting"


def test_damaged_records_of_a_cell(tmp_path, capsys):
    (tmp_path / "failed.json").write_text("{}")
    (tmp_path / "cell.json").write_text("[")
    folder = CellFolder(tmp_path)
    assert folder.failure is None
    assert run_cell(folder) == 2
    assert "cell.json is missing or damaged" in folder.failure.sentence


def test_more_workers_than_memory_holds(monkeypatch):
    monkeypatch.setattr(scheduling, "_free_memory", lambda: 3.5)
    assert check_workers(8, 3) == 3
    with pytest.raises(ConfigError, match=r"--workers 8 need about 8 GB of memory, 3.5 GB are free; use at most 3"):
        check_workers(8, 9)


def started(path, out, *options):
    """The command as a process of its own."""
    command = [sys.executable, "-m", "evae", "benchmark", str(path), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def timeless(out):
    """The table's rows, and all numbers."""
    return [(out / f"table{suffix}").read_text() for suffix in (".md", ".csv")]


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_schedulers(spec, out, tmp_path, kills, monkeypatch, forked):
    """kill -9 of the scheduler at random moments; the processes of cells go on, and are waited for."""
    few = [("[2, 3]", "[2]"), ("[0, 1]", "[0]")] if kills == 2 else []
    path = spec(("epochs: 1", "epochs: 2"), *few)
    benchmark(path, tmp_path / "undisturbed")
    draw = random.Random(kills)
    for _ in range(kills):
        pid = os.fork()
        if not pid:
            try:
                benchmark(path, out, workers=2)
            finally:
                os._exit(0)
        time.sleep(draw.uniform(0.05, 1.5))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    benchmark(path, out)
    assert timeless(out) == timeless(tmp_path / "undisturbed")


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(spec, out, tmp_path):
    path = spec(("epochs: 1", "epochs: 3000"), ("[2, 3]", "[2]"))
    process = started(path, out, "--workers", "2")
    while len(list(out.glob("cells/*/run/checkpoints/last"))) < 2:
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted by SIGINT; all cells are saved, and the same command continues" in said
    assert main(["benchmark", str(path), "--out", str(out), "--status"]) == 0
    assert all(CellFolder(f).state == "stopped" for f in out.glob("cells/*"))
    assert all(0 < CellFolder(f).epochs < 3000 for f in out.glob("cells/*"))
    assert [json.loads((f / "cell.json").read_text())["train"]["epochs"] for f in out.glob("cells/*")] == [3000] * 2
