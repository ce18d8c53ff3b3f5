"""Values that the releases compute, from `tests/golden/online.npz`."""

from pathlib import Path

import numpy as np
import torch

_FILE = np.load(Path(__file__).parents[1] / "golden" / "online.npz")


def golden(name):
    """An array of the file; floats in float64."""
    found = torch.from_numpy(np.asarray(_FILE[name]))
    return found.double() if found.is_floating_point() else found


def assert_golden(found, name, rtol=1e-9, atol=1e-10):
    """Compare with an array of the file."""
    expected = golden(name)
    found = found.detach().to(expected.dtype)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
