import platform
from pathlib import Path

import pytest
import torch

from evae.training.memory import kept_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")

SIZE = 2**26  # bytes; beyond the 32 MiB up to which glibc may learn to keep a tensor


def faults():
    resource = pytest.importorskip("resource")
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def use_again_and_again():
    """Page faults of five tensors, each of which takes the place of the one before."""
    before = faults()
    for _ in range(5):
        torch.zeros(SIZE, dtype=torch.uint8)
    return faults() - before


def test_memory_of_one_step_serves_the_next():
    outside = use_again_and_again()
    with kept_memory():
        use_again_and_again()
        inside = use_again_and_again()
    assert inside < outside / 10


def test_memory_is_handed_back_at_the_end():
    with kept_memory():
        pass  # what was kept before is handed back
    before = resident()
    with kept_memory():
        torch.ones(SIZE, dtype=torch.uint8)
        assert resident() - before > 0.9 * SIZE
    assert resident() - before < 0.1 * SIZE
