from dataclasses import replace

import pytest

from acclimate.adapt import Adapter
from acclimate.bundle import Bundle
from acclimate.evaluate.speed import measure_speed, speed_key
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.variant import Variant


@pytest.fixture(scope="module")
def task(saved, data):
    (task,) = tasks_of(Grid(("fog",), methods=("cta",), batch=10), {"b": saved}, data)
    return task


def test_the_cost_is_the_adapters(task, saved, data):
    bundle = Bundle.load(saved)
    speed = measure_speed(task, bundle, data)
    cost = Adapter(bundle, "cta").cost(10)
    assert speed.forward_equivalents == cost.forward_equivalents > 1
    assert speed.moving_parameters == cost.moving_parameters > 0
    assert speed.held_bytes == cost.held_bytes
    assert speed.activation_bytes == cost.activation_bytes
    assert speed.seconds_per_image > 0
    still = replace(
        task, variant=Variant("source"), settings=replace(task.settings, steps=0), curve=False
    )
    assert measure_speed(still, bundle, data).seconds_per_image < speed.seconds_per_image


def test_tasks_that_take_as_long_share_a_speed(task):
    alike = [
        {"seed": 5}, {"order": "mixed"}, {"shifts": ()}, {"dataset": "x"}, {"images": "x"},
        {"frost": "x"}, {"settings": replace(task.settings, seed=8)}, {"n_images": 400},
    ]  # fmt: skip
    for changes in alike:
        assert speed_key(replace(task, **changes)) == speed_key(task), changes
    unlike = [
        {"bundle": "x"}, {"checksum": "x"}, {"variant": Variant("cta").without_steps},
        {"batch": 11}, {"curve": False},
        {"settings": replace(task.settings, steps=7)}, {"n_images": 4},
    ]  # fmt: skip
    keys = {speed_key(replace(task, **changes)) for changes in unlike}
    assert len(keys | {speed_key(task)}) == len(unlike) + 1


def test_methods_that_learn_from_each_image_are_timed_on_few(saved, data, bundle_of, monkeypatch):
    seen = []
    call = Adapter.__call__
    monkeypatch.setattr(
        Adapter, "__call__", lambda self, images: seen.append(len(images)) or call(self, images)
    )
    bundle = bundle_of("ttt")
    settings = replace(Adapter(bundle, "ttt").settings, steps=1)
    assert settings.one_by_one
    (task,) = tasks_of(Grid(("fog",), methods=("source",)), {"b": saved}, data)
    speed = measure_speed(
        replace(task, variant=Variant("ttt"), settings=settings, batch=20), bundle, data
    )
    assert seen == [4, 4]
    assert speed.forward_equivalents > 1
