"""Training, adapting, views and corruptions do not wait for a GPU: on a pretended one, on the CPU.

What still waits, and why, is in `KNOWN` below.
"""

import pytest
import torch
from pretended import pretended_gpu

from acclimate.adapt import Adapter
from acclimate.methods import METHODS

KNOWN = {"adapt/loop.py:_answer", "adapt/vmapped.py:logits"}


@pytest.fixture
def gpu():
    with pretended_gpu() as made:
        yield made


@pytest.mark.parametrize("name", METHODS)
def test_an_adapted_batch_waits_for_its_answers_check_alone(gpu, bundle_of, images, name):
    changes = {"steps": 2} if METHODS[name].settings.steps else {}
    adapter = Adapter(bundle_of(name), name, precision="fp32", device="pretended", **changes)
    size = 3 if METHODS[name].settings.one_by_one else 24
    with torch.no_grad():
        unit = adapter.preprocessing.unit(images.to(gpu.device))
        index = torch.arange(100, device=gpu.device)
        adapter._adapt(unit[:size], index[:size], every=False)
        with gpu.watched():
            adapter._adapt(unit[size : 2 * size], index[size : 2 * size], every=False)
    assert not [wait for wait in gpu.waits if wait[1] not in KNOWN]
