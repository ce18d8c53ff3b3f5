"""The same bits again, on a GPU too."""

import os

import torch


def repeat_bits() -> None:
    """Let this process choose those of a GPU's kernels that give the same bits each time.

    The fastest ones add up in the order in which threads happen to finish, so that two runs of one
    command differ in the last digits first, and then in more. Where there is no GPU nothing
    changes. Call it before the GPU's first use. Meant for programs; a library should not decide
    this for its caller.
    """
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Else whatever is about to be written is filled with NaN first, which costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
