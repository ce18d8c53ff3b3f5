"""What the benchmark calls a release's loss is the release's."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def traps(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    import release_traps

    yield release_traps
    del sys.modules["release_traps"]


def test_clust3_as_released(traps):
    golden = np.load(ROOT / "tests" / "golden" / "losses.npz")
    logits = torch.from_numpy(golden["clust3_logits_K_by_M"]).double()
    found = traps.released_loss(logits[None])
    assert found.item() == pytest.approx(float(golden["clust3_adapt_loss_as_released"]), rel=1e-4)
