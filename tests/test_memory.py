"""Keeping freed memory: fewer page faults for the same work."""

import subprocess
import sys

import pytest

WORK = """
import resource, torch
from acclimate.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(20):
    torch.ones(12_000_000)
print(faults() - before)
"""


def faults(keep: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(keep=keep)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_block_that_was_freed_is_not_faulted_in_again():
    # 20 blocks of 11,719 pages each.
    assert faults(keep=True) < faults(keep=False) / 2
