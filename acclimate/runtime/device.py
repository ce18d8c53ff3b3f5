"""Where to run."""

import torch

from acclimate.errors import InputError


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of a name; None takes a GPU if there is one.

    Raises:
        InputError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"there is no device {name!r} here ({reason}); use cpu.") from error
    return torch.device(name)
