"""A GPU's kernels that repeat their bits, without a GPU: what is asked of torch, and who asks."""

import os

import pytest
import torch

from acclimate import cli
from acclimate.runtime.determinism import repeat_bits


@pytest.mark.parametrize("there", [True, False])
def test_asked_for_where_there_is_a_gpu(monkeypatch, there):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "remembered")  # so that it is as before after it
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = torch.utils.deterministic.fill_uninitialized_memory
    try:
        repeat_bits()
        assert torch.are_deterministic_algorithms_enabled() == there
        assert torch.utils.deterministic.fill_uninitialized_memory == (before and not there)
        assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == (":4096:8" if there else None)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = before


def test_commands_ask(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("acclimate.runtime.determinism.repeat_bits", lambda: asked.append(True))
    with pytest.raises(SystemExit):
        cli.main(["report", str(tmp_path)])
    assert asked
