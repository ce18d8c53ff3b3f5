"""Bit-for-bit reproducible results, also on a GPU."""

import os

import torch


def repeat_bits() -> None:
    """Make this process use deterministic GPU kernels, which give the same bits in every run.

    The fastest kernels sum in the order in which threads finish, so two runs of one command differ
    by rounding, and training amplifies the difference. Without a GPU this function does nothing.
    Call it before the GPU is first used, and from programs only: a library should leave the choice
    to its caller.

    ```python
    repeat_bits()
    bundle = acclimate.align(model, images)  # the same weights in every run
    ```
    """
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Otherwise torch fills every new tensor with NaN before it is written, which costs time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
