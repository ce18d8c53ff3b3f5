"""The state of an adapter: whole, exchanged between streams, saved, and refused elsewhere."""

import subprocess
import sys

import pytest
import torch
from dotted import dotted
from fewer import few_steps
from loose import loose
from rated import rated
from soon import soon
from torch import nn

from acclimate.adapt import Adapter
from acclimate.adapt.state import Backup, Undo
from acclimate.backbones import Classifier, build, split
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.methods import METHODS
from acclimate.preprocessing import Preprocessing
from acclimate.storage import sealed

WITH_STEPS = [name for name, row in METHODS.items() if row.objective]


def adapter_of(bundle, name, **changes):
    if METHODS[name].settings.steps:
        own = few_steps(name, 2) | rated(name, 3e-3) | loose(name) | soon(name, 20)
        changes = own | dotted(**changes)
    return Adapter(bundle, name, device="cpu", precision="fp32", **dotted(**changes))


def modules_of(adapter):
    named = {"model": adapter.model, "objective": adapter.objective}
    return nn.ModuleDict({name: module for name, module in named.items() if module is not None})


@pytest.mark.parametrize("name", METHODS)
def test_nothing_that_learning_changes_lies_outside_the_state(bundle_of, images, name):
    adapter = adapter_of(bundle_of(name), name, reset="never")
    everything = modules_of(adapter).state_dict(keep_vars=True)
    before = {name: tensor.detach().clone() for name, tensor in everything.items()}
    for batch in images[:40].split(20) if not METHODS[name].settings.one_by_one else [images[:3]]:
        adapter(batch)
    held = {tensor.data_ptr() for tensor in adapter._learner.state.tensors.values()}
    moved = [key for key, tensor in everything.items() if not torch.equal(tensor, before[key])]
    assert bool(moved) == (METHODS[name].objective is not None)
    assert all(everything[key].data_ptr() in held for key in moved)


FUTURE = """
import sys, torch
from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
torch.set_num_threads(1)
for folder, name, changes, state, batch, out in torch.load(sys.argv[1]):
    adapter = Adapter(Bundle.load(folder), name, device="cpu", precision="fp32", **changes)
    adapter.load(state)
    torch.save(adapter(batch), out)
"""


@pytest.mark.parametrize(
    "names",
    [
        ("tent", "sar", "cotta", "rotta", "cta", "acclimate"),  # one for each kind of state
        pytest.param(tuple(METHODS), marks=pytest.mark.slow),
    ],
    ids=["some", "all"],
)
def test_methods_go_on_in_another_process(names, bundle_of, images, tmp_path):
    """One process for all: each loads its bundle and state, and answers the same to the bit."""
    threads, jobs, expected = torch.get_num_threads(), [], []
    torch.set_num_threads(1)
    saved = {}
    for name in names:
        row = METHODS[name]
        made = id(bundle_of(name))  # shared by methods
        if made not in saved:
            saved[made] = tmp_path / name
            bundle_of(name).save(saved[made])
        changes = {"reset": "never"}
        if row.settings.steps:
            changes |= few_steps(name, 2) | rated(name, 3e-3)
        bundle = Bundle.load(saved[made])
        adapter = Adapter(bundle, name, device="cpu", precision="fp32", **changes)
        past, future = (
            (images[:3], images[3:5]) if row.settings.one_by_one else images[:29].split([20, 9])
        )
        adapter(past)
        adapter.save(tmp_path / f"{name}.state")
        jobs.append(
            (
                str(saved[made]),
                name,
                changes,
                str(tmp_path / f"{name}.state"),
                future,
                str(tmp_path / f"{name}.out"),
            )
        )
        expected.append(adapter(future))
    torch.set_num_threads(threads)
    torch.save(jobs, tmp_path / "jobs")
    subprocess.run([sys.executable, "-c", FUTURE, str(tmp_path / "jobs")], check=True, timeout=300)
    for (*_, out), answer in zip(jobs, expected, strict=True):
        assert torch.equal(torch.load(out), answer), out


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"name": "cta-paper"}, "of the method cta, not of cta-paper"),
        ({"update": {"learning_rate": 1e-2}}, r"other settings \(update\)"),
        ({"seed": 5}, r"other settings \(seed\)"),
    ],
)
def test_states_are_refused_elsewhere(bundle, images, change, match, tmp_path):
    adapter = Adapter(bundle, "cta")
    state = adapter.snapshot()
    adapter.save(tmp_path / "state")
    other = Adapter(bundle, change.pop("name", "cta"), **change)
    for use in (
        lambda: other.restore(state),
        lambda: other.swap(state),
        lambda: other.load(tmp_path / "state"),
    ):
        with pytest.raises(InputError, match=match):
            use()


def test_a_state_of_another_bundle_is_refused(bundle, images):
    import copy

    adapter = Adapter(bundle, "cta")
    adapter(images[:20])  # what has moved since makes no difference
    state = adapter.snapshot()
    Adapter(bundle, "cta").restore(state)
    spoiled = copy.deepcopy(bundle)
    with torch.no_grad():
        spoiled.twin.head.weight[0, 0] += 1e-3
    with pytest.raises(InputError, match="of another bundle"):
        Adapter(spoiled, "cta").restore(state)


def test_a_damaged_state_is_refused(bundle, tmp_path):
    adapter = Adapter(bundle, "cta")
    adapter.save(tmp_path / "state")
    content = bytearray((tmp_path / "state").read_bytes())
    content[-3] ^= 1
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        adapter.load(tmp_path / "state")
    with pytest.raises(InputError, match="does not exist"):
        adapter.load(tmp_path / "nowhere")


def test_a_state_with_other_tensors_is_refused_and_changes_nothing(bundle, images, tmp_path):
    adapter, untouched = (Adapter(bundle, "cta") for _ in range(2))
    tensors, record = adapter.snapshot().tensors, adapter.snapshot().belongs
    first = next(iter(tensors))
    for spoiled in (
        {**tensors, "odd": torch.zeros(1)},
        {name: tensor for name, tensor in tensors.items() if name != first},
        tensors | {first: torch.zeros(1)},
        tensors | {first: tensors[first].double()},
    ):
        sealed.save(tmp_path / "state", spoiled, record)
        with pytest.raises(InputError, match="another adapter"):
            adapter.load(tmp_path / "state")
    assert torch.equal(adapter(images[:20]), untouched(images[:20]))


@pytest.mark.parametrize("name", ["tent", "cta", "tttpp", "y"])
def test_one_adapter_serves_streams_as_one_adapter_each_would(bundle_of, images, name):
    """Streams take turns in an order of their own; each has batches of its own size."""
    bundle = bundle_of(name)
    changes = {"reset": "never"} if name != "y" else {}
    shared = adapter_of(bundle, name, **changes)
    streams = [shared.snapshot() for _ in range(3)]
    own = [adapter_of(bundle, name, **changes) for _ in range(3)]
    for turn, which in enumerate([0, 1, 1, 2, 0, 2, 1]):
        batch = images[7 * turn :][: 3 + 4 * which]
        shared.swap(streams[which])
        found = shared(batch)
        shared.swap(streams[which])
        assert torch.equal(found, own[which](batch))
        assert shared._learner.seen == 0  # its own state is untouched


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, images):
        return self.linear(self.norm(self.conv(images)).relu().mean((2, 3)))


def test_a_thousand_states_through_one_adapter(images):
    """What a thousand adapters answer, with memory that grows by the states alone."""
    torch.manual_seed(0)
    classifier: Classifier = split(Tiny().eval())
    bundle = Bundle(classifier, None, Preprocessing(8), tuple("abc"), method="tent")
    shared = adapter_of(bundle, "tent")
    states = [shared.snapshot() for _ in range(1000)]
    parameters = sum(p.numel() for p in classifier.encoder.norm.parameters())
    counters = 8 * (3 + 1)
    one = 3 * 4 * parameters + 2 * 4 + counters  # Adam: two averages, and a count for each tensor
    assert {state.nbytes for state in states} == {one}
    owned = {id(tensor) for state in states for tensor in state.tensors.values()}
    assert len(owned) == 1000 * len(states[0].tensors)
    small = nn.functional.interpolate(images.float() / 255, size=8)
    batches = [small[k % 150 :][:6] for k in range(1000)]
    first, second = [], []
    for answers in (first, second):
        for state, batch in zip(states, batches):
            shared.swap(state)
            answers.append(shared(batch))
            shared.swap(state)
    for k in range(0, 1000, 25):
        alone = adapter_of(bundle, "tent")
        assert torch.equal(alone(batches[k]), first[k])
        assert torch.equal(alone(batches[k]), second[k])
    assert len({tuple(s.tensors["seen"].flatten().tolist()) for s in states}) == 1
    assert len(first) == len(second) == 1000 and not torch.equal(first[0], second[0])


def test_a_state_of_tent_on_a_resnet50_is_below_a_megabyte():
    with torch.device("cpu"):
        classifier = split(build("acclimate:resnet50-imagenet", classes=10).eval())
    bundle = Bundle(classifier, None, Preprocessing(32), tuple("abcdefghij"), method="tent")
    assert Adapter(bundle, "tent", device="cpu").snapshot().nbytes < 1e6


def test_backup_goes_back_in_place():
    tensors = [
        torch.arange(3.0),
        torch.tensor(7),
        torch.ones(2, 2, dtype=torch.bfloat16),
        torch.zeros(2),
        torch.tensor([torch.nan]),
    ]
    kept = [tensor.clone() for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    backup = Backup(tensors)
    assert [value is None for value in backup.values()] == [False, False, False, True, False]
    for _ in range(2):
        for tensor in tensors:
            tensor.mul_(3).add_(1)
        backup.restore()
        for tensor, value in zip(tensors, kept):
            torch.testing.assert_close(tensor, value, rtol=0, atol=0, equal_nan=True)
    assert [tensor.data_ptr() for tensor in tensors] == places
    Backup([]).restore()


@pytest.mark.parametrize("wanted", [True, False])
def test_undo_goes_back_unless_the_step_was_taken(wanted):
    tensors = [torch.arange(3.0), torch.tensor(7)]
    before, undo = [tensor.clone() for tensor in tensors], Undo(tensors)
    for tensor in tensors:
        tensor.add_(2)
    undo.keep()
    for tensor in tensors:
        tensor.fill_(float("nan") if tensor.is_floating_point() else 0)
    undo.unless(torch.tensor(wanted))
    for tensor, value in zip(tensors, before):
        assert torch.equal(tensor, value + 2) != wanted
