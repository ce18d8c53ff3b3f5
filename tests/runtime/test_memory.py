"""Keeping freed memory: fewer page faults for the same work. And the peak of what is held."""

import subprocess
import sys

import pytest
import torch

from acclimate.runtime.memory import PeakMemory

WORK = """
import resource, torch
from acclimate.runtime.memory import keep_freed_memory
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


PEAK = """
import torch
from acclimate.runtime.memory import PeakMemory, keep_freed_memory
{keep}
torch.ones(75_000_000)  # 300 MB, before
with PeakMemory() as nothing:
    pass
with PeakMemory() as some:
    torch.ones(25_000_000)
with PeakMemory() as after:
    pass
print(nothing.most, some.most, after.most)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak cannot begin anew")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the peak is the GPU's")
@pytest.mark.parametrize("keep", ["", "keep_freed_memory()"])
def test_the_peak_is_what_was_held_within_the_block(keep):
    done = subprocess.run(
        [sys.executable, "-c", PEAK.format(keep=keep)], capture_output=True, text=True, check=True
    )
    nothing, some, after = map(int, done.stdout.split())
    assert some - nothing == pytest.approx(100e6, abs=10e6)
    assert after - nothing < 10e6


def test_a_system_that_cannot_begin_anew_gives_the_peak_of_the_process(monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.write_text", refuse)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    with PeakMemory() as peak:
        pass
    assert peak.most > 50e6
