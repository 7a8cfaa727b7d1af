"""What counts as a fault of a reader."""

import mmap
import os
import signal
import time
from contextlib import closing

import pytest

from evae.errors import DataError
from tests.fuzz import watched
from tests.fuzz.watched import Watched


def fine(folder):
    return folder


def refused(folder):
    raise DataError("is damaged")


def wrong(folder):
    raise KeyError("x")


def left(folder):
    raise SystemExit(2)


def without_memory(folder):
    try:
        raise MemoryError
    except MemoryError as error:
        raise DataError("is damaged") from error


def large(folder):
    with mmap.mmap(-1, 2**26) as memory:  # not what the parent has freed and keeps
        for _ in range(2**10):
            memory.write(b"x" * 2**16)


def dead(folder):
    os.kill(os.getpid(), signal.SIGSEGV)


def waiting(folder):
    time.sleep(60)


def busy(folder):
    while True:
        pass


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("read", "fault"),
    [
        (fine, ""),
        (refused, ""),
        (wrong, "KeyError at the test"),
        (left, "SystemExit at the test"),
        (without_memory, "DataError at the test"),
        (large, "took 6"),
        (dead, "died of signal 11"),
        (waiting, "waited for 1.1 s"),
        (busy, "computed for 0.2 s"),
    ],
)
def test_faults(read, fault, tmp_path, monkeypatch):
    limits = {"MEMORY": 2**25, "SECONDS": 0.2 if read is busy else 9, "WAITING": 1.1 if read is waiting else 60}
    for name, value in limits.items():
        monkeypatch.setattr(watched, name, value)
    with closing(Watched(read, tmp_path / "log")) as reader:
        for _ in range(1 if read in (waiting, busy) else 2):  # a new process takes the place of one that died
            found = reader.fault(tmp_path)
            assert found.startswith(fault)
            assert bool(found) == bool(fault)
            assert f"in {read.__name__}" in found or read in (fine, refused, large)
