import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.backbones import build
from acclimate.bundle import Bundle
from acclimate.preprocessing import Preprocessing

SETTINGS = {"precision": "fp32", "device": "cpu", "steps": 2, "update": {"learning_rate": 0.05}}


@pytest.fixture(scope="module")
def bundle():
    torch.manual_seed(0)
    model = build("acclimate:resnet8-w8", classes=4).eval()
    return Bundle(model, None, Preprocessing(16), ("a", "b", "c", "d"))


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return list(torch.rand(count, 6, 3, 16, 16, generator=generator))


def in_threads(calls):
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_one_adapter_in_threads_that_resets(bundle):
    adapter = Adapter(bundle, "tent", reset="batch", **SETTINGS)
    images = batches(8)
    expected = [adapter(batch) for batch in images]
    for _ in range(3):
        found = in_threads([lambda batch=batch: adapter(batch) for batch in images])
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_one_adapter_in_threads_that_remembers_answers_in_some_order(bundle):
    adapter = Adapter(bundle, "tent", **SETTINGS)
    images = batches(3)
    orders = []
    for order in permutations(range(3)):
        adapter.reset()
        answers = {number: adapter(images[number]) for number in order}
        orders.append([answers[number] for number in range(3)])
    for _ in range(5):
        adapter.reset()
        found = in_threads([lambda batch=batch: adapter(batch) for batch in images])
        assert any(all(map(torch.equal, found, order)) for order in orders)


def test_adapters_of_one_bundle_are_independent(bundle):
    images = batches(4)

    def run(method):
        adapter = Adapter(bundle, method, **SETTINGS)
        return [adapter(batch) for batch in images]

    expected = run("tent")
    for found in in_threads([lambda: run("tent")] * 4):
        assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_copies_have_a_lock_of_their_own(bundle):
    adapter = Adapter(bundle, "tent", **SETTINGS)
    images = batches(2)
    adapter(images[0])
    other = copy.deepcopy(adapter)
    assert torch.equal(adapter(images[1]), other(images[1]))
    with adapter._lock:
        (found,) = in_threads([lambda: other(images[0])])  # would wait for ever for the same lock
    assert torch.equal(found, adapter(images[0]))
    pickle.dumps(adapter.snapshot())
    copy.deepcopy(bundle)
