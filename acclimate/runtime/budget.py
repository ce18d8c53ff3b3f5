"""How much memory there is: a limit that was given, or what the machine has free."""

import math
import os
import re
from pathlib import Path

import torch

from acclimate.errors import InputError
from acclimate.runtime.memory import keeps_freed_memory, release_free_memory

_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(?:([kmgt])(i?))?b?", re.IGNORECASE)
_RAN_OUT = ("can't allocate memory", "not enough memory", "out of memory", "bad allocation")
_SHARE = 0.8
"""Share of the free memory that passes may take: other programs need some too."""
_KERNELS, _GAPS = 1.1, 1.25
"""What passes take over what their tensors take: kernels have memory of their own, and there are
gaps between tensors where freed memory is kept."""
_GROUPS = (
    ("", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Below the folder of control groups, in version 2 and 1: limit, usage, and what can be freed."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: Python's, torch's on a CPU, or that on a GPU.

    ```python
    try:
        adapter(images)
    except Exception as error:
        if out_of_memory(error):
            ...
    ```
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(words in text for words in _RAN_OUT)


def parse_bytes(size: str | int) -> int:
    """The number of bytes of a size such as ``2GB``, ``500 MB`` or ``1.5GiB``.

    ```python
    parse_bytes("2GB")  # 2000000000
    ```

    Raises:
        InputError: it is no size.
    """
    match = _SIZE.fullmatch(str(size).strip())
    if match is None or isinstance(size, bool) or not 0 < float(match[1]) < 1e15:
        raise InputError(f"the memory limit must be a size such as 2GB or 500MB, not {size!r}.")
    power = " kmgt".index((match[2] or " ").lower())
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def show_bytes(size: float) -> str:
    """A size in words.

    ```python
    show_bytes(2_000_000_000)  # "2.0 GB"
    ```
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{-(-size // 1e6):.0f} MB"


_processes = [1]
"""Processes that share what is free, this one among them."""


def share_with(processes: int) -> None:
    """Leave what is free to so many processes of this kind, each its part."""
    _processes[0] = processes


def for_passes(limit: int | None, device: torch.device) -> float:
    """Bytes of tensors that the passes of a network may take now, in addition to what is held.

    Args:
        limit: The most that the whole process may hold, on a GPU the most that its tensors may
            take there. None takes a share of what is free.
        device: Where the passes run.

    Returns:
        Infinity where the system does not say what is free.
    """
    over = _GAPS if keeps_freed_memory() else _KERNELS
    if limit is not None:
        return max(0.0, (limit - _held(device)) / over)
    return _SHARE * free_bytes(device) / over / _processes[0]


def free_bytes(device: torch.device) -> float:
    """Bytes that are free on a device: on a CPU by the machine and by its control groups.

    Returns:
        Infinity where the system does not say it.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(device)[0]
    return min(_available(Path("/proc/meminfo")), group_bytes(Path("/")))


def group_bytes(root: Path) -> float:
    """Bytes that this process's control groups leave, where a container has a limit.

    Args:
        root: The folder that holds ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf
    left = math.inf
    for line in lines:
        _, kinds, place = line.split(":", 2)
        version = 0 if not kinds else 1
        if version and "memory" not in kinds.split(","):
            continue
        base = root / "sys/fs/cgroup" / _GROUPS[version][0]
        folder = base / place.strip("/")
        # A container sees its own group as the root: then the path that it reads is not there.
        for group in (base, folder, *folder.parents):
            if group.is_relative_to(base):
                left = min(left, _left(group, *_GROUPS[version][1:]))
    return left


def _left(group: Path, limit: str, usage: str, reclaimable: str) -> float:
    """Limit minus usage of one control group; files that are only cached do not count."""
    try:
        most, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return math.inf
    if most == "max":
        return math.inf
    return max(0, int(most) - used + int(statistics.get(reclaimable, 0)))


def _available(table: Path) -> float:
    try:
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return math.inf


def _held(device: torch.device) -> int:
    """Bytes that the process holds now; on a GPU those of its tensors."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    release_free_memory()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
