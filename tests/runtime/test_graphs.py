"""The recorder of CUDA graphs, where there is no GPU; tests/test_gpu.py has the others."""

import copy
import pickle

import torch

from acclimate.runtime.graphs import Recorder


def test_without_a_gpu_the_function_runs():
    calls = []

    def double(x):
        calls.append(len(x))
        return (2 * x,)

    recorder = Recorder("doubling", torch.device("cpu"))
    for number in range(5):
        assert torch.equal(
            recorder(double, torch.full((3,), float(number)))[0], torch.full((3,), 2.0 * number)
        )
    assert len(calls) == 5
    assert "GPU" in recorder.obstacle


def test_recorders_are_copied():
    recorder = Recorder("nothing", torch.device("cpu"))
    for other in (copy.deepcopy(recorder), pickle.loads(pickle.dumps(recorder))):
        assert other(lambda x: (x,), torch.ones(1))[0].item() == 1
