import torch
from pretended import pretended_gpu

from acclimate.runtime.constants import held, kept, on_device


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


def test_who_holds_them_keeps_what_was_dropped():
    @kept(1)
    def ones(count):
        return torch.ones(count)

    assert ones(2) is ones(2)
    with held() as holder:
        first = ones(2)
        assert ones(3) is not first
    ones(4)
    assert [each.tolist() for each in holder] == [[1, 1], [1, 1, 1]]
    assert holder[0] is first and ones(2) is not first
