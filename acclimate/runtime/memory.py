"""Memory of the process: keep freed memory for reuse, and measure the peak."""

import ctypes
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

# glibc's <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -2, -3, -4
_KEEP = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))
_RETURN = (
    (_M_MMAP_MAX, 65_536),
    (_M_MMAP_THRESHOLD, 2**20),
    (_M_TRIM_THRESHOLD, 2**17),
    (_M_TOP_PAD, 2**17),
)
_chosen = {"keeps": False}


def keep_freed_memory() -> bool:
    """Make this process reuse the memory of freed CPU tensors instead of returning it.

    ```python
    acclimate.keep_freed_memory()  # once, when the program starts
    ```

    By default glibc maps every block above 32 MiB when it is allocated and unmaps it when it is
    freed, so the activations of each step cost a page fault per 4 KiB. In return, the process does
    not shrink. Call this from programs only: a library should leave the choice to its caller.

    Returns:
        Whether the C library accepted the settings. Only glibc has them.
    """
    _chosen["keeps"] = _set(_KEEP)
    return _chosen["keeps"]


def return_freed_memory() -> None:
    """Make this process return the memory of every freed tensor above 1 MiB at once.

    Passes are then slower, but there are no gaps: where activations are computed anew, gaps would
    take more than the tensors themselves.
    """
    _chosen["keeps"] = False
    if _set(_RETURN):
        release_free_memory()


def keeps_freed_memory() -> bool:
    """Whether `keep_freed_memory` is in force."""
    return _chosen["keeps"]


def _set(settings: Iterable[tuple[int, int]]) -> bool:
    """Whether the C library accepted all settings."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    accepted = [mallopt(name, value) == 1 for name, value in settings]  # all, whatever fails
    return all(accepted)


class PeakMemory:
    """Measure the peak memory within a ``with`` block: of the GPU if used, else of the process.

    Where the system cannot reset its peak counter (systems other than Linux, some sandboxes), the
    result is the peak since the process started.

    ```python
    with PeakMemory() as memory:
        adapter(images)
    print(memory.most)
    ```

    Attributes:
        most: Peak memory in bytes, set when the block ends.
    """

    most = 0

    def __enter__(self) -> "PeakMemory":
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        if sys.platform.startswith("linux"):
            release_free_memory()
            with suppress(OSError):  # proc(5): 5 resets the peak resident size to the current one
                Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        self.most = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        self.most: int = self.most or _peak_resident()


def release_free_memory() -> None:
    """Make the C library return free memory, which would otherwise count in the new peak."""
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
