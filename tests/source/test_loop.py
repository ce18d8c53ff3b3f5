from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from acclimate.errors import InputError
from acclimate.randomness import key, permutation
from acclimate.runtime.live import most_bytes
from acclimate.runtime.ranks import gather
from acclimate.source import loop, room
from acclimate.source.loop import Run, Training, learning_rate, train

COUNT = 40
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(COUNT, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(0, 3, (COUNT,), generator=GENERATOR)
SETTINGS = Training(epochs=3, batch=8, learning_rate=0.01, warm_up=1.0, weight_decay=1e-3)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(8, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


def loss(module, numbers, epoch_key):
    return cross_entropy(module(IMAGES[numbers]), LABELS[numbers])


def run_in(folder=None, precision="fp32", **fields):
    return Run(folder=folder, precision=precision, device="cpu", **fields)


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("warm_up", [0.0, 2.0, 2.5])
def test_learning_rate_warms_up_linearly_and_falls_as_a_cosine(warm_up):
    settings = Training(epochs=10, learning_rate=0.1, final_learning_rate=0.001, warm_up=warm_up)
    steps = 8
    rates = torch.tensor([learning_rate(settings, i / steps, 1 / steps) for i in range(80)])
    rising, falling = rates[: int(warm_up * steps)], rates[int(warm_up * steps) :]
    expected = 0.1 * torch.arange(1, len(rising) + 1) / max(len(rising), 1)
    torch.testing.assert_close(rising, expected, rtol=1e-5, atol=0)
    through = torch.arange(len(falling)) / len(falling)
    expected = 0.001 + 0.099 * (1 + (torch.pi * through).cos()) / 2
    torch.testing.assert_close(falling, expected, rtol=1e-5, atol=1e-9)
    assert falling[0] == pytest.approx(0.1)
    assert learning_rate(settings, 10.0) == pytest.approx(0.001)
    assert learning_rate(settings, 11.0) == pytest.approx(0.001)


def test_warm_up_longer_than_the_training_never_reaches_the_peak():
    settings = Training(epochs=2, learning_rate=1.0, warm_up=4.0)
    rates = [learning_rate(settings, i / 4, 1 / 4) for i in range(8)]
    assert rates == pytest.approx([(i + 1) / 16 for i in range(8)])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_equals_a_plain_loop(optimizer):
    settings = replace(SETTINGS, optimizer=optimizer)
    module, plain = network(), network()
    for each in (module, plain):
        each[3].p = 0.0
    train("stage", module, loss, settings, run_in(seed=5), count=COUNT)
    kinds = {
        "adam": lambda p: torch.optim.Adam(p, weight_decay=1e-3, foreach=False),
        "sgd": lambda p: torch.optim.SGD(
            p, lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=False
        ),
    }
    steps = kinds[optimizer](plain.parameters())
    for epoch in range(3):
        order = permutation(key(5, "stage", epoch), COUNT)
        for step in range(5):
            steps.param_groups[0]["lr"] = learning_rate(settings, epoch + step / 5, 1 / 5)
            steps.zero_grad()
            loss(plain, order[8 * step : 8 * step + 8], 0).backward()
            steps.step()
    for ours, theirs in zip(module.parameters(), plain.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert module.training


class StopError(Exception):
    pass


def stopping(at):
    def progress(task, done, total, remark):
        if done == at:
            raise StopError

    return progress


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_resumed_training_ends_in_the_same_bits(tmp_path, optimizer):
    settings = replace(SETTINGS, optimizer=optimizer)
    whole = network()
    full = run_in(tmp_path / "whole")
    train("stage", whole, loss, settings, full, count=COUNT)
    without_folder = network()
    train("stage", without_folder, loss, settings, run_in(), count=COUNT)
    assert_same(whole.state_dict(), without_folder.state_dict())
    folder = tmp_path / "stopped"
    for at in (8, 13):  # in the second epoch, then in the third
        with pytest.raises(StopError):
            stopped = run_in(folder, progress=stopping(at))
            train("stage", network(), loss, settings, stopped, count=COUNT)
    steps = []
    resumed = network()
    run = run_in(folder, progress=lambda name, done, total, remark: steps.append((done, total)))
    torch.rand(7)  # the global generator's state does not matter
    train("stage", resumed, loss, settings, run, count=COUNT)
    assert_same(resumed.state_dict(), whole.state_dict())
    assert steps[0][0] == 2 * steps[0][1] / 3 + 1  # only the third epoch
    losses = [[epoch["loss"] for epoch in r.history["stage"]] for r in (run, full)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    assert [p.name for p in folder.iterdir()] == ["stage.safetensors"]


def test_finished_training_is_loaded_and_not_repeated(tmp_path):
    first, second = network(), network()
    train("stage", first, loss, SETTINGS, run_in(tmp_path), count=COUNT)

    def forbidden(module, numbers, epoch_key):
        raise AssertionError("trained again")

    train("stage", second, forbidden, SETTINGS, run_in(tmp_path), count=COUNT)
    assert_same(first.state_dict(), second.state_dict())


def test_one_run_trains_each_module_that_it_is_given():
    run, untrained = run_in(), network(1)
    train("stage", network(), loss, SETTINGS, run, count=COUNT)
    module = network(1)
    train("stage", module, loss, SETTINGS, run, count=COUNT)
    assert not torch.equal(module[7].weight, untrained[7].weight)
    assert [epoch["epoch"] for epoch in run.history["stage"]] == [1, 2, 3]


@pytest.mark.parametrize(
    "change",
    [
        {"settings": replace(SETTINGS, epochs=1, learning_rate=0.02)},
        {"settings": replace(SETTINGS, epochs=2)},
        {"settings": replace(SETTINGS, epochs=1, optimizer="sgd")},
        {"run": {"seed": 1}},
        {"run": {"precision": "bf16"}},
        {"count": COUNT - 1},
        {"identity": {"images": "other"}},
    ],
)
def test_checkpoint_of_another_run_is_refused(tmp_path, change):
    settings = replace(SETTINGS, epochs=1)
    arguments = {"settings": settings, "run": {}, "count": COUNT, "identity": None}

    def start(settings, run, **rest):
        train("stage", network(), loss, settings, run_in(tmp_path, **run), **rest)

    start(**arguments)
    before = (tmp_path / "stage.safetensors").read_bytes()
    with pytest.raises(InputError, match="other settings"):
        start(**arguments | change)
    assert (tmp_path / "stage.safetensors").read_bytes() == before


def test_checkpoint_of_other_initial_weights_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    train("stage", network(), loss, settings, run_in(tmp_path), count=COUNT)
    with pytest.raises(InputError, match="other settings"):
        train("stage", network(1), loss, settings, run_in(tmp_path), count=COUNT)


def test_damaged_checkpoint_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1)
    train("stage", network(), loss, settings, run_in(tmp_path), count=COUNT)
    path = tmp_path / "stage.safetensors"
    content = path.read_bytes()
    for damaged in (content[:-1], content[: len(content) // 2], b"", content[:-9] + b"\xff" * 9):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged"):
            train("stage", network(), loss, settings, run_in(tmp_path), count=COUNT)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(tmp_path, value):
    calls = []

    def exploding(module, numbers, epoch_key):
        calls.append(numbers)
        return loss(module, numbers, epoch_key) * (value if len(calls) == 7 else 1)

    with pytest.raises(InputError, match=r"stage loss became .* in epoch 2; lower the learning"):
        train("stage", network(), exploding, SETTINGS, run_in(tmp_path), count=COUNT)
    resumed, whole = network(), network()
    train("stage", resumed, loss, SETTINGS, run_in(tmp_path), count=COUNT)
    train("stage", whole, loss, SETTINGS, run_in(), count=COUNT)
    assert_same(resumed.state_dict(), whole.state_dict())  # no NaN was kept


def test_no_epochs_change_nothing(tmp_path):
    module = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    run = run_in(tmp_path)
    train("stage", module, loss, replace(SETTINGS, epochs=0), run, count=COUNT)
    assert_same(module.state_dict(), before)
    assert not list(tmp_path.iterdir()) and run.history == {"stage": []}


@pytest.mark.parametrize("count, batch, steps", [(10, 4, 2), (12, 4, 3), (5, 8, 1), (8, 8, 1)])
def test_batches_are_whole_and_an_epoch_takes_each_image_once(count, batch, steps):
    seen, told = [], []

    def watching(module, numbers, epoch_key):
        seen.append(numbers)
        return loss(module, numbers, epoch_key)

    settings = replace(SETTINGS, epochs=2, batch=batch)
    run = run_in(progress=lambda *report: told.append(report))
    train("stage", network(), watching, settings, run, count=count)
    seen.pop(0)  # the trial that shows how much memory a step takes
    assert [len(numbers) for numbers in seen] == [min(batch, count)] * (2 * steps)
    epochs = [torch.cat(seen[:steps]), torch.cat(seen[steps:])]
    for numbers in epochs:
        assert len(numbers.unique()) == len(numbers) and 0 <= numbers.min() <= numbers.max() < count
    assert not torch.equal(*epochs)
    assert [report[:3] for report in told] == [
        ("stage", step + 1, 2 * steps) for step in range(2 * steps)
    ]


def test_every_step_has_its_learning_rate(monkeypatch):
    made, rates = [], []
    original = loop.make_optimizer
    monkeypatch.setattr(
        loop, "make_optimizer", lambda *args: made.append(original(*args)) or made[-1]
    )

    def watching(module, numbers, epoch_key):
        rates.append(made[0].param_groups[0]["lr"])
        return loss(module, numbers, epoch_key)

    train("stage", network(), watching, SETTINGS, run_in(), count=COUNT)
    rates.pop(0)  # the trial that shows how much memory a step takes
    assert rates == [learning_rate(SETTINGS, step / 5, 1 / 5) for step in range(15)]


def test_frozen_parameters_stay(tmp_path):
    for _ in range(2):  # trained, then resumed
        module = network()
        module[0].requires_grad_(False)
        train("stage", module, loss, SETTINGS, run_in(tmp_path), count=COUNT)
        assert torch.equal(module[0].weight, network()[0].weight)
        assert not torch.equal(module[4].weight, network()[4].weight)


def test_seeds_and_stages_differ_and_training_learns():
    found = []
    for name, seed in (("stage", 0), ("stage", 1), ("other", 0)):
        module, run = network(), run_in(seed=seed)
        train(name, module, loss, replace(SETTINGS, epochs=8), run, count=COUNT)
        losses = [epoch["loss"] for epoch in run.history[name]]
        assert losses[-1] < losses[0]
        found.append(module[7].weight)
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_gather_without_ranks_is_the_identity():
    features = torch.rand(2, 3)
    assert gather(features) is features


class Deep(nn.Module):
    """Blocks with batch norm and dropout, whose activations count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        block = lambda: nn.Sequential(  # noqa: E731
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.2), nn.Conv2d(8, 8, 1)
        )
        self.stem, self.blocks = nn.Conv2d(3, 8, 3), nn.ModuleList(block() for _ in range(6))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def test_in_little_memory_the_weights_are_the_same_and_statistics_move_once(monkeypatch):
    trial = Deep()
    whole = most_bytes(lambda: loss(trial, torch.arange(8), 0).backward())
    thrifts, chosen = [], room.room_for
    monkeypatch.setattr(room, "return_freed_memory", lambda: None)
    monkeypatch.setattr(
        loop, "room_for", lambda *a, **k: thrifts.append(chosen(*a, **k)) or thrifts[-1]
    )
    found = []
    for budget in (float("inf"), 0.7 * whole):
        monkeypatch.setattr(room, "for_passes", lambda limit, device, budget=budget: budget)
        module = Deep()
        train("t", module, loss, SETTINGS, run_in(), count=COUNT)
        found.append(module.state_dict())
    assert [bool(thrift.modules) for thrift in thrifts] == [False, True]
    for name, value in found[1].items():
        torch.testing.assert_close(value, found[0][name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_step_that_does_not_fit_is_refused_with_a_batch_that_does(monkeypatch):
    monkeypatch.setattr(room, "return_freed_memory", lambda: None)
    monkeypatch.setattr(room, "for_passes", lambda limit, device: 1e5)
    with pytest.raises(
        InputError, match=r"the stage t on 8 images needs .* a batch of \d images \(t\.batch=\d\)"
    ):
        train("t", Deep(), loss, SETTINGS, run_in(memory_limit="1GB"), count=COUNT)
