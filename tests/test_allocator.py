"""The command line keeps freed memory for its process; the library leaves its host's allocator alone."""

import json
import os
import platform
import subprocess
import sys

import pytest

# In a process of its own, whose memory holds nothing of other tests. Tensors of 64 MiB, beyond the 32 MiB up to which
# glibc may learn to keep them; the heap needs a few rounds until its free parts are large enough.
FAULTS = """
import resource, sys
import torch

def use_again_and_again(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

exec(sys.argv[1])
use_again_and_again(10)
print(use_again_and_again(5))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")


def faults(statement):
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", FAULTS, statement]
    return json.loads(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_a_command_keeps_the_memory_of_one_step_for_the_next():
    usual = faults("import evae")
    assert faults("from evae.allocator import keep_memory; keep_memory()") < usual / 10


@pytest.mark.slow
def test_the_library_leaves_the_allocator_alone(blobs):
    program = (
        "from tests.training.small import SETTINGS; from evae import train; import tempfile\n"
        f"train({blobs!r}, tempfile.mkdtemp() + '/run', **SETTINGS | {{'epochs': 1}})"
    )
    assert faults(program) > 5 * 2**26 / 4096 / 2
