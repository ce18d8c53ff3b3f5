"""What a GPU gives is what a CPU gives, up to rounding, and the same bits each time: -m gpu."""

import copy
import itertools
import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate import Accelerator

from acclimate.adapt import Adapter
from acclimate.adapt.alone import adapt_alone
from acclimate.adapt.loop import adapt
from acclimate.adapt.vmapped import vmapped
from acclimate.data import LabelledImages
from acclimate.data.corruptions import PUBLISHED, corrupt
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.task import Grid
from acclimate.methods import METHODS, RECIPES
from acclimate.parts.update import SGD
from acclimate.runtime.determinism import repeat_bits
from acclimate.runtime.graphs import Recorder
from acclimate.runtime.workers import processes
from acclimate.source.loop import Run
from acclimate.source.presets import PRESETS, with_epochs
from acclimate.source.train import train
from acclimate.views import SimCLRViews, simclr_views

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no GPU, or hidden: it shows with exactly -m gpu"
    ),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]
UNREPEATABLE = {"ttt-mae"}
"""Torch has no kernel that repeats its bits for the way back through the resizing of positions."""


@pytest.fixture(autouse=True)
def exact():
    """Float32 as a CPU has it, and kernels that repeat themselves."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    repeat_bits()
    yield
    torch.backends.cudnn.allow_tf32 = before


def certain(bundle):
    """With large weights in the heads: some methods learn only from images with certain answers."""
    models = {name: copy.deepcopy(getattr(bundle, name)) for name in ("classifier", "twin")}
    with torch.no_grad():
        for parameter in (p for m in models.values() if m for p in m.head.parameters()):
            parameter.mul_(30)
    return replace(bundle, **models)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_those_of_a_cpu(bundle_of, images, name):
    changes = {"precision": "fp32"}
    if METHODS[name].settings.steps:  # the highest published rates make rounding large
        changes |= {"steps": 2}
        published = getattr(METHODS[name].settings.update, "learning_rate", None)
        if published is not None:
            changes |= {"update.learning_rate": min(published, 1e-3)}
    here, there = (
        Adapter(bundle_of(name), name, **changes, device=device) for device in ("cpu", "cuda")
    )
    for batch in (images[:24], images[24:40]):
        expected, found = here(batch), there(batch)
        assert found.is_cuda
        torch.testing.assert_close(found.cpu(), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.settings.steps])
def test_steps_move_weights(bundle_of, images, name):
    """Published rates move some methods' answers by less than rounding."""
    changes = {"steps": 2, "reset": "never"}
    if hasattr(METHODS[name].settings.update, "learning_rate"):
        changes |= {"update.learning_rate": 0.05}
    adapter = Adapter(certain(bundle_of(name)), name, **changes, device="cuda")
    before = adapter.snapshot().tensors
    adapter(images[:80])  # a bank learns at its 64th
    after = {name: t for name, t in adapter.snapshot().tensors.items() if name.startswith("model.")}
    assert max((t - before[name]).abs().max() for name, t in after.items()) > 2e-3


@pytest.mark.parametrize("name", METHODS)
def test_a_stream_repeats_itself_to_the_bit(bundle_of, images, name):
    changes = {"steps": 2} if METHODS[name].settings.steps else {}
    bundle = certain(bundle_of(name))
    first, again = (Adapter(bundle, name, **changes, device="cuda") for _ in range(2))
    for batch in (images[:24].cuda(), images[24:40]):  # images may lie on either
        assert torch.equal(first(batch), again(batch))


@pytest.mark.parametrize(("name", "momentum"), [("ttt", 0.0), ("ttt", 0.9), ("ttt-mae", 0.9)])
def test_all_at_once_equals_one_after_another(bundle_of, images, name, momentum):
    settings = {"precision": "fp32", "steps": 3, "update": SGD(0.01, momentum=momentum)}
    learner = Adapter(bundle_of(name), name, **settings, device="cuda")._learner
    unit, index = images[:5].cuda().float() / 255, torch.arange(7, 12, device="cuda")

    def alone(number):
        one = slice(number, number + 1)
        return torch.stack(adapt(learner, unit[one], index[one], every=True)[0])

    with torch.no_grad():
        plain = torch.cat([alone(number) for number in range(5)], dim=1)
        group = torch.stack(vmapped(learner, unit, index, every=True)[0])
        answered = torch.stack(adapt_alone([learner], unit, index, every=True)[0])
    assert (plain[3] - plain[0]).abs().max() > 1e-3  # the steps are visible
    torch.testing.assert_close(group, plain, atol=1e-3, rtol=1e-3)
    assert torch.equal(answered, group)


def test_views_are_those_of_a_cpu(images):
    unit, index = images[:64].float() / 255, torch.arange(64)
    settings = SimCLRViews()
    expected = simclr_views(unit, settings, key=3, index=index, count=2)
    found = simclr_views(unit.cuda(), settings, key=3, index=index.cuda(), count=2)
    # Positions are rounded otherwise, and so a pixel may come from its neighbour.
    assert ((found.cpu() - expected).abs() > 1e-3).float().mean() < 1e-3


@pytest.mark.parametrize("name", PUBLISHED)
def test_corruptions_are_those_of_a_cpu(images, name):
    expected = corrupt(images[:32], name, 5, seed=0).int()
    found = corrupt(images[:32].cuda(), name, 5, seed=0).cpu().int()
    assert ((found - expected).abs() > 2).float().mean() < 0.01


def trained(recipe, source, options):
    name = next(name for name, row in METHODS.items() if row.recipe == recipe)
    settings = with_epochs(PRESETS["small"], 2)
    model = "acclimate:vit2-w32-p4" if RECIPES[recipe].transformer else "acclimate:resnet8-w8"
    return train(name, model, source, settings, Run(0), options=options)


@pytest.fixture(scope="session")
def source(images):
    labels = torch.arange(len(images)) % 4
    return LabelledImages(images, labels, ("ant", "bee", "cat", "dog"), "random")


@pytest.mark.parametrize(
    "recipe", [name for name in RECIPES if name not in UNREPEATABLE | {"uda-ss"}]
)
def test_training_repeats_itself_to_the_bit(source, small_options, recipe):
    assert Accelerator().device.type == "cuda"
    options = small_options(recipe)
    first, again = (trained(recipe, source, options).modules.state_dict() for _ in range(2))
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name


def test_a_grid_repeats_itself(saved, source, tmp_path):
    grid = Grid(("none", "gaussian_noise"), methods=("source", "ptbn", "cta"), batch=32)
    found = []
    for workers in (1, 2):
        grid_run = GridRun(grid, {"bundle": saved}, (partial(replace, source),))
        measured, failed = run_grid(grid_run, tmp_path / str(workers), engine=processes(workers))
        assert not failed
        cells = (each.cell for each in measured)
        found.append(sorted((str(c.variant), c.corruption, c.accuracy, c.nll) for c in cells))
    assert found[0] == found[1]


def without_graphs(monkeypatch):
    """Recorders run their functions as they are."""

    def plain(self, function, *inputs, constants=None):
        return function(*inputs)

    monkeypatch.setattr(Recorder, "__call__", plain)


@pytest.mark.parametrize(
    "recipe", [name for name in RECIPES if name not in UNREPEATABLE | {"uda-ss"}]
)
def test_recorded_training_is_the_same_to_the_bit(source, small_options, recipe, monkeypatch):
    options = small_options(recipe)
    recorded = trained(recipe, source, options).modules.state_dict()
    without_graphs(monkeypatch)
    plain = trained(recipe, source, options).modules.state_dict()
    for name, tensor in plain.items():
        assert torch.equal(tensor, recorded[name]), name


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "uda-ss"])
def test_training_is_recorded(source, small_options, recipe, caplog):
    """Nothing that is trained here waits for the GPU, or draws from other generators."""
    with caplog.at_level("INFO", "acclimate"):
        trained(recipe, source, small_options(recipe))
    assert "without a CUDA graph" not in caplog.text


@pytest.mark.parametrize("name", METHODS)
def test_recorded_batches_are_the_same_to_the_bit(bundle_of, images, name, monkeypatch):
    changes = {"steps": 2} if METHODS[name].settings.steps else {}
    batches = [images[(number * 8) % 40 :][:24].cuda() for number in range(6)]
    bundle = certain(bundle_of(name))

    def stream():
        adapter = Adapter(bundle, name, **changes, device="cuda")
        logits = []
        for number, batch in enumerate(batches):
            logits.append(adapter(batch if number != 4 else batch[:5]))
            if number == 3:
                kept = adapter.steps
                values = [step.loss.clone() for step in kept]
        assert all(torch.equal(a.loss, b) for a, b in zip(kept, values)), "reports stay"
        return torch.cat(logits), adapter

    found, adapter = stream()
    if not adapter.settings.one_by_one:
        assert not adapter._learner.recorder.obstacle
    without_graphs(monkeypatch)
    assert torch.equal(found, stream()[0])


def test_what_waits_is_not_recorded(caplog):
    recorder = Recorder("the function", torch.device("cuda"))
    with caplog.at_level("INFO", "acclimate"):
        for number in range(6):
            x = torch.full((3,), float(number), device="cuda")
            assert recorder(lambda x: (x * x.sum().item(),), x)[0].sum() == 9 * number**2
    assert "the function runs without a CUDA graph, for it waits for the GPU" in caplog.text


def test_what_draws_elsewhere_is_not_recorded():
    recorder = Recorder("the function", torch.device("cuda"))
    drawn = {
        float(recorder(lambda x: (x * random.random(),), torch.ones((), device="cuda"))[0])
        for _ in range(8)
    }
    assert len(drawn) == 8
    assert "random" in recorder.obstacle


def test_a_recorded_function_draws_anew():
    recorder = Recorder("the function", torch.device("cuda"))
    ones = torch.ones(1000, device="cuda")
    drawn = [recorder(lambda x: (torch.dropout(x, 0.5, True),), ones)[0] for _ in range(8)]
    assert not recorder.obstacle
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(drawn))


def test_other_constants_are_recorded_anew():
    recorder = Recorder("the function", torch.device("cuda"), most=1)
    x = torch.ones((), device="cuda")
    for number in (1, 1, 1, 1, 2, 3, 3, 1):
        found = recorder(lambda x, number=number: (x * number,), x, constants=number)
        assert float(found[0]) == number
