"""Decoding in processes: they end with the one that started them, and what happens to them is one sentence."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from evae.data import open_store, workers
from evae.data.rows import Row
from evae.errors import DataError


def test_a_killed_process_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("EVAE_CACHE", str(tmp_path))

    def killed(*_, **__):
        raise TerminatedWorkerError("killed\nby the system")

    monkeypatch.setattr(workers, "Parallel", lambda **_: killed)
    with pytest.raises(DataError, match="was killed, as systems do where memory runs out; set LOKY_MAX_CPU_COUNT"):
        open_store("mnist5k", 8)
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_tasks_take_little_memory(monkeypatch):
    monkeypatch.setattr(workers, "_BYTES", 25)
    rows = [Row(str(i), bytes(10), None, None) for i in range(7)]
    assert [len(chunk) for chunk in workers._chunks(rows)] == [3, 3, 1]


def children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()] if listed.exists() else []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_processes_end_with_the_one_that_started_them(tmp_path):
    """And hold no lock: the next command starts at once."""
    code = "from evae import open_store; open_store('mnist5k', 64)"
    environment = os.environ | {"EVAE_CACHE": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(tmp_path.glob("*.tmp/*.chunk")):
        time.sleep(0.01)
    decoding = children(process.pid)
    assert decoding
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in decoding) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [child for child in decoding if Path(f"/proc/{child}").exists()]
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "waiting" not in done.stderr
