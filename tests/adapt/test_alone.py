"""Images that are learned from one by one, several at a time, against one after another."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn.functional import cross_entropy

from acclimate.adapt import Adapter
from acclimate.randomness import key

ALONE = ["ttt", "ttt-mae", "memo"]


@pytest.fixture(autouse=True)
def three_threads():
    """So that there are three learners, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def visible(name):
    """Settings under which a step can be seen in an answer."""
    rate = {"ttt": 1e-2, "ttt-online": 1e-2, "ttt-mae": 5e-3, "memo": 0.1}[name]
    return {"steps": 2, "update.learning_rate": rate, "precision": "fp32"}


def on_one_thread(bundle, name, **changes):
    """An adapter with one learner."""
    torch.set_num_threads(1)
    adapter = Adapter(bundle, name, **visible(name), **changes)
    torch.set_num_threads(3)
    return adapter


@pytest.mark.parametrize("name", ALONE)
def test_threads_change_nothing(bundle_of, images, name):
    bundle = bundle_of(name)
    several, one = Adapter(bundle, name, **visible(name)), on_one_thread(bundle, name)
    assert (len(several._learners), len(one._learners)) == (3, 1)
    for batch in (images[:7], images[7:9]):
        torch.testing.assert_close(several(batch), one(batch), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALONE)
def test_the_steps_of_these_comparisons_are_visible(bundle_of, images, name):
    frozen = Adapter(bundle_of(name), "source", precision="fp32")(images[:7])
    learned = Adapter(bundle_of(name), name, **visible(name))(images[:7])
    assert (learned - frozen).abs().amax(1).min() > 2e-3  # 20 times the tolerance, of every image


@pytest.mark.parametrize("name", ["ttt", "ttt-online", "ttt-mae", "memo"])
def test_a_batch_is_its_images_given_singly(bundle_of, images, name):
    together, singly = (Adapter(bundle_of(name), name, **visible(name)) for _ in range(2))
    found = together(images[:7])
    alone = torch.cat([singly(image[None]) for image in images[:7]])
    torch.testing.assert_close(found, alone, atol=1e-4, rtol=0)


def test_each_image_starts_from_the_source(bundle_of, images):
    """The views depend on an image's number, so the compared image keeps its own."""
    bundle = bundle_of("ttt")
    other = torch.cat([images[20:26], images[6:7]])
    found, beside_others = (
        Adapter(bundle, "ttt", **visible("ttt"))(batch)[6] for batch in (images[:7], other)
    )
    torch.testing.assert_close(found, beside_others, atol=1e-4, rtol=0)
    online = [
        Adapter(bundle, "ttt-online", **visible("ttt-online"))(batch)[6]
        for batch in (images[:7], other)
    ]
    assert (online[0] - online[1]).abs().max() > 1e-3  # it does remember


def test_answers_come_in_the_order_of_the_images(bundle_of, images):
    """Without steps an answer depends on nothing but its image."""
    adapter = Adapter(bundle_of("ttt"), "ttt", **visible("ttt") | {"update.learning_rate": 0.0})
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    straight, shuffled = adapter(images[:9]), adapter(images[:9][order])
    torch.testing.assert_close(shuffled, straight[order], atol=1e-5, rtol=0)
    assert (straight - straight[order]).abs().max() > 1e-2


def test_trace_holds_every_step_of_every_image(bundle_of, images):
    bundle = bundle_of("ttt")
    trace = Adapter(bundle, "ttt", **visible("ttt")).trace(images[:7])
    assert trace.shape == (3, 7, 4)
    for steps, answers in enumerate(trace):
        fewer = Adapter(bundle, "ttt", **visible("ttt") | {"steps": steps})(images[:7])
        torch.testing.assert_close(answers, fewer, atol=1e-4, rtol=0)


def test_the_number_of_threads_stays(bundle_of, images):
    """Here, and in threads that begin later: they take the process' number."""

    def numbers():
        with ThreadPoolExecutor(1) as pool:
            return torch.get_num_threads(), pool.submit(torch.get_num_threads).result()

    adapter = Adapter(bundle_of("ttt"), "ttt", **visible("ttt"))
    adapter(images[:7])
    assert numbers() == (3, 3)
    fail(adapter)
    with pytest.raises(RuntimeError, match="no memory left"):
        adapter(images[:7])
    assert numbers() == (3, 3)


def fail(adapter):
    """Let every forward pass of any learner fail."""

    def hook(*_):
        raise RuntimeError("no memory left")

    for learner in adapter._learners:
        learner.model.encoder.register_forward_pre_hook(hook)


def test_after_an_error_all_learners_are_there_again(bundle_of, images):
    bundle = bundle_of("ttt")
    adapter, untouched = (Adapter(bundle, "ttt", **visible("ttt")) for _ in range(2))
    fail(adapter)
    with pytest.raises(RuntimeError):
        adapter(images[:7])
    for learner in adapter._learners:
        learner.model.encoder._forward_pre_hooks.clear()
    torch.testing.assert_close(adapter(images[:7]), untouched(images[:7]), atol=1e-4, rtol=0)


def test_refused_steps_of_all_threads_are_counted(bundle_of, images):
    """Of three images with two steps each no gradient is finite; the answers are the source's."""
    bundle = bundle_of("ttt")
    adapter = Adapter(bundle, "ttt", **visible("ttt"))
    for learner in adapter._learners:
        parameter = next(iter(learner.moving.values()))
        parameter.register_hook(lambda gradient: gradient * float("nan"))
    frozen = Adapter(bundle, "source", precision="fp32")(images[:3])
    torch.testing.assert_close(adapter(images[:3]), frozen, atol=1e-4, rtol=0)
    assert adapter.refused == 6
    snapshot = adapter.snapshot()
    adapter.reset()
    assert adapter.refused == 0
    adapter.restore(snapshot)
    assert adapter.refused == 6


def test_online_is_a_plain_loop(bundle_of, images):
    """One model, one SGD, an image at a time, nothing reset."""
    bundle, rate = bundle_of("ttt-online"), 1e-2
    adapter = Adapter(bundle, "ttt-online", **visible("ttt-online") | {"steps": 1})
    found = torch.cat([adapter(images[:5]), adapter(images[5:7])])
    model, task = copy.deepcopy(bundle.classifier), copy.deepcopy(bundle.objective)
    moving = [*model.encoder.parameters(), *task.parameters()]
    optimizer = torch.optim.SGD([p.requires_grad_() for p in moving], rate)
    mean, std = (
        torch.tensor(x)[:, None, None]
        for x in (bundle.preprocessing.mean, bundle.preprocessing.std)
    )
    stage = int(task.tap.split(".")[-1])
    for number, image in enumerate(images[:7].float() / 255):
        views, turns = task.draw(image[None], key(0, "adapt", 0), torch.tensor([number]))
        features = model.encoder.stem((views - mean) / std)
        for part in model.encoder.stages[: stage + 1]:
            features = part(features)
        optimizer.zero_grad()
        cross_entropy(task.branch(features), turns).backward()
        optimizer.step()
        with torch.no_grad():
            answer = model((image[None] - mean) / std)[0]
        torch.testing.assert_close(found[number], answer, atol=1e-4, rtol=0)
