"""Fewer page faults: a training step gives memory back that the next one takes again."""

import ctypes
import sys

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
