"""Cells as a job array: what is submitted, by a stand-in for SLURM's programs; and SLURM itself, on this machine."""

import getpass
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

import evae
from evae.benchmark import benchmark
from evae.benchmark.cell import CellFolder, folder_of
from evae.benchmark.cells import Cell
from evae.benchmark.slurm import submit
from evae.cli import main
from evae.errors import EvaeError

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
LOOK, PATIENCE = 0.1, 300  # seconds

CONF = """
ClusterName=evae
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000
PartitionName=test Nodes={host} Default=YES State=UP
"""


def until(is_true, what):
    """Look again and again."""
    end = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < end, f"{what} did not happen in {PATIENCE} seconds"
        time.sleep(LOOK)


def called(*command):
    """Whether a program did what it is for, and what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode == 0, done.stdout


def free_ports(count):
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """SLURM on this machine's loopback, one node of two processors, run by the user of the tests."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (apt-get install slurmctld slurmd slurm-client munge)")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "key").write_bytes(os.urandom(256))
    (folder / "key").chmod(0o400)
    conf = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    conf.write_text(CONF.format(folder=folder, host=host, user=getpass.getuser(), ports=free_ports(2)))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    files = {name: f"--{name}-file={folder / name}" for name in ("key", "pid", "seed")}
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *files.values()],
        ["slurmctld", "-D", "-c", "-f", str(conf)],
        ["slurmd", "-D", "-f", str(conf)],
    ]
    with ExitStack() as stack:
        for command in daemons:
            log = stack.enter_context((folder / f"{command[0]}.log").open("wb"))
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            if command[0] == "munged":
                until((folder / "munge.socket").exists, "the start of munged")
        until(lambda: "idle" in called("sinfo", "--noheader", "--format=%T")[1], "the start of SLURM")
        yield
        called("scancel", f"--user={getpass.getuser()}")
        until(lambda: not called("squeue", "--noheader")[1], "the end of all jobs")


def process_of(folder):
    """The process of a cell."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[:1] == [os.fsencode(sys.executable)] and os.fsencode(folder.path) in words:
                return int(path.parent.name)
    raise AssertionError(f"no process computes {folder.path}")


@pytest.mark.slurm
def test_a_real_slurm(spec, cells, tmp_path, slurm, forked, capsys, monkeypatch):
    """One task is killed, one requeued, one stopped as before the end of its time, one cancelled."""
    monkeypatch.setenv("PYTHONPATH", str(Path(evae.__file__).parents[1]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path, out = spec(("epochs: 1", "epochs: 40")), tmp_path / "re sults"
    command = ["benchmark", str(path), "--out", str(out)]
    killed, requeued, stopped, cancelled = folders = [folder_of(out, cell) for cell in cells(path)]

    assert main([*command, "--slurm", "--mem=400 --time=1:00:00", "--slurm-concurrent", "2"]) == 0
    job = re.match(r"job (\d+) of SLURM computes 4 cells", capsys.readouterr().out)[1]
    assert main([*command, "--slurm"]) == 0
    assert capsys.readouterr().out == "no cell is submitted: 4 in the queue\n"

    def trained(*some):
        until(lambda: all(folder.epochs > 2 for folder in some), "training")

    trained(killed, requeued)
    os.kill(process_of(killed), signal.SIGKILL)
    assert called("scontrol", "requeue", f"{job}_1")[0]
    trained(stopped, cancelled)
    assert called("scancel", "--batch", "--signal=USR1", f"{job}_2")[0]
    assert called("scancel", f"{job}_3")[0]
    until(lambda: not called("squeue", "--noheader")[1], "the end of the tasks")
    assert [folder.state for folder in folders] == ["stopped", "finished", "finished", "stopped"]
    logs = [(out / "slurm" / f"{job}_{task}.log").read_text() for task in range(4)]
    assert [log.count("is requeued") for log in logs] == [0, 0, 1, 0]
    assert [log.count("was ended; its cell has saved its state") for log in logs] == [0, 1, 0, 1]

    assert main([*command, "--slurm"]) == 0
    said = capsys.readouterr().out
    assert re.match(r"job \d+ of SLURM computes 2 cells .*; left out: 2 finished or failed for good;", said)
    until(lambda: not called("squeue", "--noheader")[1], "the end of the tasks")
    assert all(folder.state == "finished" for folder in folders)
    assert main([*command, "--slurm"]) == 0  # nothing is left: the table

    there = benchmark(path, tmp_path / "undisturbed")
    for name in ("table.md", "table.csv"):
        assert (out / name).read_text() == (there / name).read_text()


FAKE = """#!/bin/sh
printf '%s\\n' "$@" >"{folder}/{name}.arguments"
{body}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Stand-ins for SLURM's programs, which note their arguments and then run a shell's lines."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def program(name, body):
        path = folder / name
        path.write_text(FAKE.format(folder=folder, name=name, body=body))
        path.chmod(0o755)
        return lambda: (folder / f"{name}.arguments").read_text().splitlines()

    return program


@pytest.fixture
def submitted(tmp_path):
    """Submit four cells, of which only the names matter."""
    four = [Cell(i, f"cell{i}", {}, {}, None, {}) for i in range(4)]
    return lambda options="": submit("spec", tmp_path / "results", four, 0, options, None)


@pytest.fixture
def command(spec, tmp_path):
    return ["benchmark", str(spec()), "--out", str(tmp_path / "results")]


class TestSubmission:
    def test_is_one_array_of_the_cells_that_are_left(self, fake, command, spec, cells, computed, tmp_path, capsys):
        arguments = fake("sbatch", "echo '17;there'")
        out = computed(spec(), lambda cell: {"bce": 1.0} if cell.index == 2 else None)
        assert main([*command, "--slurm-concurrent", "2", "--slurm", "--partition=gpu -A 'my account'"]) == 0
        told = capsys.readouterr().out
        assert told.startswith("job 17 of SLURM computes 3 cells (")
        assert "; left out: 1 finished or failed for good;" in told
        script = out / "slurm" / "spec.sh"
        log = f"--output={out}/slurm/%A_%a.log"
        assert arguments() == ["--parsable", log, "--partition=gpu", "-A", "my account", str(script)]
        lines = script.read_text().splitlines()
        assert {"#SBATCH --array=0-2%2", "#SBATCH --signal=B:USR1@120", "#SBATCH --requeue"} < set(lines)
        left = [cell for cell in cells(spec()) if cell.index != 2]
        assert [cell.name for cell in left] == lines[lines.index("names=(") + 1 : lines.index(")")]
        assert all(folder_of(out, cell).record.train["data"] == cell.train["data"] for cell in left)
        assert main([*command, "--status"]) == 0
        assert "4 cells: 3 waiting, 1 finished" in " ".join(capsys.readouterr().out.split())

    def test_leaves_out_what_is_in_the_queue_or_computed(self, fake, submitted, tmp_path):
        fake("sbatch", "echo 17")
        assert "computes 4 cells" in submitted()
        asked = fake("squeue", "echo 1; echo 3")
        fake("sbatch", "echo 18")
        with CellFolder(tmp_path / "results" / "cells" / "cell0").locked():
            said = submitted()
        assert said.startswith("job 18 of SLURM computes 1 cell (")
        assert "left out: 2 in the queue, 1 in other processes" in said
        assert "--jobs=17" in asked()
        fake("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
        assert "computes 4 cells" in submitted()
        fake("squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
        with pytest.raises(EvaeError, match="squeue failed: Unable to contact slurm controller"):
            submitted()

    @pytest.mark.parametrize(
        ("body", "sentence"),
        [
            (None, "sbatch cannot be run (No such file or directory); --slurm is for machines from which jobs are"),
            (
                "echo 'sbatch: error: invalid partition specified: gpu' >&2\n"
                "echo 'sbatch: error: Batch job submission failed: Invalid partition name specified' >&2; exit 1",
                "sbatch failed: invalid partition specified: gpu; Batch job submission failed: Invalid partition name",
            ),
            (
                "echo 'sbatch: error: Batch job submission failed: Invalid job array specification' >&2; exit 1",
                "Invalid job array specification; --shard i/n submits a part",
            ),
            ("exit 3", "sbatch failed: exit code 3"),
            ("echo Usage: sbatch", "sbatch reported no job number, but Usage: sbatch"),
            ("", "sbatch reported no job number;"),
        ],
    )
    def test_that_fails_is_one_sentence(self, fake, submitted, tmp_path, monkeypatch, body, sentence):
        if body is None:
            monkeypatch.setenv("PATH", str(tmp_path))
        else:
            fake("sbatch", body)
        with pytest.raises(EvaeError, match=re.escape(sentence)):
            submitted()
        assert not list(tmp_path.glob("results/slurm/*.json"))

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ("--partition='gpu", "No closing quotation"),
            ("gpu", "'gpu' is none"),
            ("--mem=2G run.sh", "'run.sh' is none"),
            ("--array=0-7", "--slurm --array=0-7: evae benchmark sets the tasks itself"),
            ("-a 0-7", "--slurm -a: evae benchmark sets the tasks itself"),
        ],
    )
    def test_takes_options_of_sbatch(self, submitted, options, sentence):
        with pytest.raises(EvaeError, match=re.escape(sentence)):
            submitted(options)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["--slurm", "--workers", "2"], "with --slurm give --slurm-concurrent"),
            (["--slurm", "--slurm-concurrent", "0"], "slurm_concurrent must be at least 1, not 0"),
            (["--slurm-concurrent", "2"], "--slurm-concurrent is for --slurm"),
        ],
    )
    def test_of_options_that_do_not_go_together(self, command, capsys, options, sentence):
        assert main([*command, *options]) == 2
        assert sentence in " ".join(capsys.readouterr().err.split())


class TestScript:
    """The script as it is submitted, run by bash with a stand-in for the cell's process."""

    @pytest.fixture
    def task(self, fake, submitted, monkeypatch, tmp_path):
        """Start the task of the second cell, whose process is given by a shell's lines."""
        fake("sbatch", "echo 17")
        submitted()
        script = (tmp_path / "results" / "slurm" / "spec.sh").read_text()
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        ids = {"SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_ON_NODE": "3"}

        def start(body, **environment):
            text = script.replace(f"python={sys.executable}", f"python={tmp_path}/bin/cell")
            start.arguments = fake("cell", body)
            variables = {**os.environ, **ids, **environment}
            return subprocess.Popen(["bash", "-c", text], env=variables, cwd=tmp_path, start_new_session=True)

        requeued = fake("scontrol", "")
        start.requeued = lambda: requeued() if (tmp_path / "bin" / "scontrol.arguments").exists() else []
        return start

    @pytest.mark.parametrize(
        ("body", "code", "is_requeued", "environment"),
        [
            ("exit 0", 0, False, {}),
            ("exit 2", 2, False, {}),
            ("exit 73", 0, False, {}),
            ("kill -9 $$", 137, False, {}),
            ("exit 75", 75, True, {}),
            ("exit 75", 75, False, {"SLURM_RESTART_COUNT": "3"}),
            ('mkdir -p "$3/run/checkpoints"; exit 75', 75, True, {"SLURM_RESTART_COUNT": "3"}),
        ],
    )
    def test_exit_codes(self, task, body, code, is_requeued, environment):
        assert task(body, **environment).wait() == code
        assert task.requeued() == (["requeue", "17_1"] if is_requeued else [])

    def test_runs_the_cell(self, task, tmp_path):
        assert task('echo "$OMP_NUM_THREADS"').wait() == 0
        folder = tmp_path / "results" / "cells" / "cell1"
        assert task.arguments() == ["-m", "evae.benchmark", str(folder)]
        assert (folder / "log.txt").read_text() == "3\n"

    @pytest.mark.parametrize(
        ("of_all", "name", "handled", "is_requeued"),
        [(False, "USR1", "USR1", True), (False, "USR1", "INT", True), (True, "TERM", "TERM", False)],
    )
    def test_signals(self, task, tmp_path, of_all, name, handled, is_requeued):
        """USR1 comes to the script alone before the end of the time; TERM to all processes of a job that is ended."""
        process = task(f"trap 'sleep 0.2; exit 75' {handled}; echo >>started; while :; do sleep 0.05; done")
        until((tmp_path / "started").exists, "the start")
        (os.killpg if of_all else os.kill)(process.pid, getattr(signal, f"SIG{name}"))
        assert process.wait() == 75
        assert task.requeued() == (["requeue", "17_1"] if is_requeued else [])
