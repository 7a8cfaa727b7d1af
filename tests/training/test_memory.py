import json
import os
import platform
import subprocess
import sys

import pytest

# In a process of its own, whose memory holds nothing of other tests. Tensors of 64 MiB, beyond the 32 MiB up to which
# glibc may learn to keep them.
FAULTS = """
import resource
import torch
from evae.allocator import kept_memory

def use_again_and_again():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**26, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = use_again_and_again()
with kept_memory():
    use_again_and_again()
    print([outside, use_again_and_again()])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_of_one_step_serves_the_next():
    env = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    run = subprocess.run([sys.executable, "-c", FAULTS], env=env, capture_output=True, text=True, check=True)
    outside, inside = json.loads(run.stdout)
    assert inside < outside / 10
