"""Keeping freed memory: fewer page faults for the same work. And the peak of what is held."""

import subprocess
import sys

import pytest
import torch

from acclimate.runtime.memory import PeakMemory

WORK = """
import resource, torch
from acclimate.runtime.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
assert keep_freed_memory()
print(usual, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_block_that_was_freed_is_not_faulted_in_again():
    done = subprocess.run([sys.executable, "-c", WORK], capture_output=True, text=True, check=True)
    usual, keeping = map(int, done.stdout.split())
    assert keeping < usual / 2  # 20 blocks of 11,719 pages each


PEAK = """
import torch
from acclimate.runtime.memory import PeakMemory, keep_freed_memory
for prepare in (lambda: None, keep_freed_memory):
    prepare()
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
def test_the_peak_is_what_was_held_within_the_block():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2  # before freed memory is kept, and after
    for nothing, some, after in (map(int, line.split()) for line in lines):
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
