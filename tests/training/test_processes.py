"""Processes of one machine: reachable from it alone, and none outlives another that was killed."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from torch.distributed import TCPStore

from evae.training import processes


def test_the_processes_meet_where_no_other_machine_reaches_them():
    with processes._store() as port:
        # As torch does it for MASTER_ADDR and MASTER_PORT: no second server is opened.
        again = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False, multi_tenant=True)
        again.set("key", "value")
        assert TCPStore("127.0.0.1", port, wait_for_workers=False).get("key") == b"value"
        socket.create_server(("127.0.0.2", port)).close()  # taken, if all addresses were


def test_environment_variables_are_put_back(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with processes._variables(processes._meeting(1234, 2, is_cpu=True)):
        assert (os.environ["MASTER_ADDR"], os.environ["LOCAL_RANK"]) == ("127.0.0.1", "0")
    assert os.environ["MASTER_ADDR"] == "10.0.0.1"
    assert "LOCAL_RANK" not in os.environ


def test_a_killed_rank_is_named(monkeypatch):
    monkeypatch.setattr(processes, "_command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])
    children = processes._Children(2)
    assert children.killed() == ""
    children._processes[1].kill()
    assert children.killed(5.0).startswith("rank 2 was killed by SIGKILL; what was saved is kept")
    children.end(0.1)
    assert [process.returncode for process in children._processes] == [-9, -9]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other(blobs, tmp_path, victim):
    options = "--image-size 16 --batch-size 16 --model.latent_dim 2 --accelerator cpu --devices 2 --epochs 100000"
    command = [sys.executable, "-m", "evae", "train", "--data", blobs, *options.split(), "--out", tmp_path / "run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as first:
        until = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last").exists() and time.monotonic() < until:
            time.sleep(0.1)
        other = int(subprocess.check_output(["pgrep", "-P", str(first.pid)]).split()[0])
        os.kill((first.pid, other)[victim], signal.SIGKILL)
        said = first.communicate(timeout=60)[1]  # ends when both have closed it
    assert first.returncode == (-9, 2)[victim]
    assert "Traceback" not in said
    assert "frame #" not in said
    assert said.count("rank 1 was killed by SIGKILL") == victim
