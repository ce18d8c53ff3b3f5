"""The process's memory: kept, so that there are fewer page faults, and its peak, measured."""

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let this process keep the memory that tensors on the CPU free.

    By default glibc maps every block above 32 MiB anew and unmaps it when freed, so each step's
    activations cost a page fault every 4 KiB. The price is a process that does not shrink. Meant
    for programs; a library should not decide this for its caller.

    Returns:
        Whether the C library took the settings; others than glibc have none.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
    taken = [mallopt(name, value) == 1 for name, value in settings]
    return all(taken)


class PeakMemory:
    """Measures the most that this process, or its GPU where it uses one, holds within a block.

    Where the system cannot begin anew (other systems than Linux, some sandboxes), it is the most
    since the process began.

    Attributes:
        most: In bytes, after the block.
    """

    most = 0

    def __enter__(self) -> "PeakMemory":
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if sys.platform.startswith("linux"):
            _give_back()
            with suppress(OSError):  # proc(5): 5 sets the peak resident size to the present one
                Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        self.most = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        self.most = self.most or _peak_resident()


def _give_back() -> None:
    """Let the C library return what is free, or an earlier peak would count."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return


def _peak_resident() -> int:
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
