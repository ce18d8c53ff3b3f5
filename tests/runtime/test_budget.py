"""Limits of memory: as given, as control groups set them, and what ran out."""

import math

import pytest
import torch

from acclimate.errors import InputError
from acclimate.runtime.budget import (
    for_passes,
    free_bytes,
    group_bytes,
    out_of_memory,
    parse_bytes,
    show_bytes,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("2GB", 2e9),
        ("2 gb", 2e9),
        ("2G", 2e9),
        ("1.5GiB", 1.5 * 2**30),
        ("500MB", 5e8),
        ("64 kB", 64e3),
        ("1TB", 1e12),
        ("12345", 12345),
        (12345, 12345),
    ],
)
def test_sizes(size, expected):
    assert parse_bytes(size) == expected


@pytest.mark.parametrize(
    "size", ["", "much", "-2GB", "0GB", "2XB", "GB", True, "1e9", "nan", "9" * 5000, f"{10**308}TB"]
)
def test_no_sizes(size):
    with pytest.raises(InputError, match="such as 2GB"):
        parse_bytes(size)


def test_sizes_in_words():
    assert (show_bytes(2.04e9), show_bytes(3.6e6), show_bytes(5)) == ("2.0 GB", "4 MB", "1 MB")


def test_a_limit_counts_what_the_process_holds():
    assert for_passes(10**6, CPU) == 0
    held = torch.ones(50_000_000)
    with_it = for_passes(10**11, CPU)
    del held
    assert for_passes(10**11, CPU) - with_it > 1e8
    assert 0 < for_passes(None, CPU) < free_bytes(CPU) < math.inf


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(str(text))


def test_the_tightest_control_group_counts(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/outer/inner\n")
    base = tmp_path / "sys/fs/cgroup"
    statistics = {"memory__stat": "anon 5\ninactive_file 100\n"}
    group(base / "outer", memory__max=10_000, memory__current=4_000, **statistics)
    group(base / "outer/inner", memory__max="max", memory__current=9, **statistics)
    assert group_bytes(tmp_path) == 10_000 - 4_000 + 100
    group(base, memory__max=500, memory__current=450, **statistics)  # as a container sees it
    assert group_bytes(tmp_path) == 150


def test_control_groups_of_version_1(tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/here\n0::/\n")
    files = {"memory__limit_in_bytes": 1000, "memory__usage_in_bytes": 300}
    statistics = {"memory__stat": "total_inactive_file 50\n"}
    group(tmp_path / "sys/fs/cgroup/memory/here", **files, **statistics)
    assert group_bytes(tmp_path) == 750


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert group_bytes(tmp_path) == math.inf


def test_torch_s_own_error_is_known():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA ..."))
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
