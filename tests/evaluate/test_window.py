"""Single images in a window, against plain loops."""

import pytest
import torch

from acclimate.adapt import Adapter
from acclimate.data import Shift, streams
from acclimate.evaluate.measure import measure
from acclimate.evaluate.variant import Variant
from acclimate.evaluate.window import SlidingWindow, passes_in_window
from acclimate.methods import METHODS, changed

BRIGHT = {"update.learning_rate": 1e-2, "precision": "fp32"}
"""Steps that are seen in the answer."""


def settings_of(name, **changes):
    row = METHODS[name].settings
    return changed(row, changes if row.steps else {"precision": "fp32"})


@pytest.mark.parametrize("name", ["tent", "ptbn", "source"])
def test_answers_are_those_of_a_plain_loop(name, bundle, data):
    """Learn from each whole new window, answer for the last image of what the window holds."""
    images, length = data.images[:11], 4
    settings = settings_of(name, **BRIGHT)
    window = SlidingWindow(Adapter(bundle, name, settings, device="cpu"), length)
    found = torch.cat([window(image) for image in images.split(1)])
    plain = Adapter(bundle, name, settings, device="cpu")
    expected = []
    for came in range(1, 12):
        held = images[max(0, came - length) : came]
        if came % length == 0 and settings.steps:
            expected.append(plain(held)[-1])
            continue
        copy = Adapter(bundle, name, changed(settings, {"reset": "never"}), device="cpu")
        copy.model.load_state_dict(plain.model.state_dict())
        with torch.no_grad():
            expected.append(copy.trace(held)[0, -1])
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_each_image_is_learned_from_once(bundle, data, monkeypatch):
    adapter = Adapter(bundle, "tent", device="cpu")
    learned = []
    call = Adapter.__call__
    monkeypatch.setattr(Adapter, "__call__", lambda a, x: (learned.append(x), call(a, x))[1])
    window = SlidingWindow(adapter, 4)
    for image in data.images[:10].split(1):
        assert window(image).shape == (1, 4)
    assert torch.equal(torch.cat(learned), data.images[:8])


def test_who_forgets_learns_from_the_window_for_each_image(bundle, data):
    settings = settings_of("tent", reset="never", **BRIGHT)
    forgetful = changed(settings, {"reset": "batch"})
    window = SlidingWindow(Adapter(bundle, "tent", forgetful, device="cpu"), 4)
    found = [window(image)[0] for image in data.images[:7].split(1)]
    expected = Adapter(bundle, "tent", settings, device="cpu")(data.images[3:7])[-1]
    torch.testing.assert_close(found[-1], expected, rtol=1e-5, atol=1e-5)


def test_a_peek_changes_nothing(bundle, data):
    for name in ("tent", "cta", "cta-paper"):
        adapter = Adapter(bundle, name, settings_of(name, steps=1, **BRIGHT), device="cpu")
        adapter(data.images[:8])
        before = adapter.snapshot().tensors
        first = adapter.peek(data.images[8:16])
        assert torch.equal(adapter.peek(data.images[8:16]), first)
        after = adapter.snapshot().tensors
        assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_cell_of_single_images(bundle, data):
    named = {"batch": 1, "seed": 2}
    (cell,) = measure(bundle, Variant("ptbn"), data, [Shift("fog", 5)], window=5, **named)
    assert (cell.batch, cell.window, cell.n_images, cell.curve) == (1, 5, 24, ())
    window = SlidingWindow(Adapter(bundle, "ptbn", seed=2), 5)
    stream = streams.shuffled(data.images, Shift("fog", 5), **named)
    expected = [int(window(batch.images).argmax()) for batch in stream]
    assert cell.answers.predictions.tolist() == expected


def test_what_a_window_costs():
    tent, cta = METHODS["tent"].settings, METHODS["cta"].settings
    assert passes_in_window(METHODS["source"].settings, 16, 1.0) == 1
    assert passes_in_window(METHODS["ptbn"].settings, 16, 1.0) == 16
    # In 16 images: 15 answers from 16 images each, and one step on 16 images.
    assert passes_in_window(tent, 16, 4.0) == (15 * 16 + 16 * 4) / 16
    assert passes_in_window(cta, 16, 6.0) == 16 * 6
