import torch
from pretended import pretended_gpu

from acclimate.runtime.constants import on_device


def test_the_numbers_have_the_type_asked_for():
    cpu = torch.device("cpu")
    assert torch.equal(on_device((0.5, 2.0), cpu), torch.tensor([0.5, 2.0]))
    assert on_device((1, 2), cpu, torch.int64).dtype == torch.int64


def test_on_the_cpu_each_call_makes_its_own():
    first, second = (on_device((1.0,), torch.device("cpu")) for _ in range(2))
    assert first is not second  # the export of a network would find the other's tensor


def test_on_a_gpu_they_are_copied_once():
    with pretended_gpu() as gpu:
        with torch.inference_mode():
            first = on_device((3.5, 4.5), gpu.device)
        with gpu.watched():
            again = on_device((3.5, 4.5), gpu.device)
        assert again is first and not gpu.waits and not gpu.kernels
        assert not first.is_inference()
        assert on_device((3.5, 4.5), gpu.device, torch.float64) is not first
