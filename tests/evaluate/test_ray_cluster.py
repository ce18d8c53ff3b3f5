"""A local Ray cluster of two processes. It takes seconds to start, so most of this is slow."""

import os
import signal
import sys
import threading
import time
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_array_equal

from acclimate.data import LabelledImages
from acclimate.errors import InputError
from acclimate.evaluate import ray_cluster
from acclimate.evaluate.cell import Answers, Cell
from acclimate.evaluate.grid import measure_speeds, run
from acclimate.evaluate.ray_cluster import RayCluster
from acclimate.evaluate.results import TIMINGS
from acclimate.evaluate.speed import speed_key
from acclimate.evaluate.store import Store
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.workplace import Workplace, measure_task
from acclimate.runtime.workers import Failure, processes

ray = pytest.importorskip("ray")
_SMALL = {"include_dashboard": False, "object_store_memory": 100_000_000, "log_to_driver": False}


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init("local", num_cpus=2, logging_level="ERROR", **_SMALL)
        with RayCluster() as cluster:
            yield cluster
        ray.shutdown()


def plain(cell):
    """A cell without what differs from run to run; answers as bytes."""
    scalars = {
        field.name: repr(getattr(cell, field.name))
        for field in fields(Cell)
        if field.name not in (*TIMINGS, "answers")
    }
    return scalars | {f.name: getattr(cell.answers, f.name).tobytes() for f in fields(Answers)}


@pytest.mark.slow
def test_results_are_those_of_processes_bit_for_bit(saved, data, place, cluster):
    grid = Grid(("none", "gaussian_noise", "frost"), methods=("source", "cta"), batch=10)
    tasks = tasks_of(grid, place.bundles, data)
    job = partial(measure_task, place=place)
    found = [
        {task.key: [plain(cell) for cell in cells] for task, cells in engine(job, tasks)}
        for engine in (cluster, processes(2))
    ]
    assert found[0].keys() == {task.key for task in tasks}
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_cluster_takes_so_many_tasks_as_it_has_cores(cluster):
    assert cluster.workers == 2
    with RayCluster(threads=2) as wide, RayCluster(workers=5) as many:
        assert (wide.workers, many.workers) == (1, 5)
    assert ray.is_initialized()  # it was there before


@pytest.mark.slow
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_and_bundles_arrive_as_they_are(layout, saved, data, cluster):
    data = replace(data, images=data.images.contiguous(memory_format=layout), domain="", paths=())
    (task,) = tasks_of(Grid(("none",), methods=("source",)), {"b": saved}, data)

    def seen(task, place):
        images, bundle = place.images(task), place.bundle(task)
        same = place.images(task) is images and place.bundle(task) is bundle
        return images, images.images.stride(), same, bundle.modules.state_dict(), place.memory_limit

    place = Workplace({"b": saved}, {task.images: lambda: data}, (), "4GB")
    ((_, (images, strides, same, weights, limit)),) = cluster(partial(seen, place=place), [task])
    assert isinstance(images, LabelledImages)
    assert_array_equal(images.images, data.images)
    assert_array_equal(images.labels, data.labels)
    assert (images.classes, images.name) == (data.classes, data.name)
    assert strides == data.images.stride()
    assert same and limit == "4GB"
    expected = place.bundle(task).modules.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_cells_of_a_killed_process_are_measured_again(tasks, place, cluster, tmp_path):
    """The first process of each task dies, in the middle of it."""

    def dies_once(task, place, folder):
        told = folder / task.key
        if not told.exists():
            told.write_text(str(os.getpid()))
            time.sleep(1000)
        return measure_task(task, place)

    job = partial(measure_task, place=place)
    expected = {
        task.key: [plain(cell) for cell in cells] for task, cells in processes(1)(job, tasks)
    }
    outcomes = cluster(partial(with_folder(dies_once, tmp_path), place=place), tasks)
    killed, found = set(), {}

    def kill():
        while len(killed) < len(tasks):
            for told in set(tmp_path.iterdir()) - killed:
                if text := told.read_text():
                    killed.add(told)
                    os.kill(int(text), signal.SIGKILL)
            time.sleep(0.05)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    for task, cells in outcomes:
        found[task.key] = [plain(cell) for cell in cells]
    assert len(killed) == len(tasks)
    assert found == expected


def with_folder(job, folder):
    return lambda task, place: job(task, place, folder)


@pytest.mark.slow
def test_a_task_that_always_kills_its_process_fails_and_the_rest_goes_on(tasks, place, cluster):
    fatal = tasks[0].key

    def job(task, place):
        if task.key == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(task.shifts) > 1:
            raise RuntimeError("no luck")
        return task.key

    outcomes = {task.key: each for task, each in cluster(partial(job, place=place), tasks)}
    assert outcomes == {
        fatal: Failure("its process died 3 times; take fewer workers"),
        tasks[1].key: tasks[1].key,
        tasks[2].key: Failure("RuntimeError: no luck"),
    }


@pytest.mark.slow
def test_closed_early_it_stops_what_runs(tasks, place, cluster, tmp_path):
    def wait(task, place, folder):
        if task.key == tasks[0].key:
            return None
        (folder / str(os.getpid())).touch()
        time.sleep(1000)

    outcomes = cluster(partial(with_folder(wait, tmp_path), place=place), tasks)
    next(outcomes)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    outcomes.close()
    wait_until(lambda: not any(Path("/proc", path.name).exists() for path in tmp_path.iterdir()))


def wait_until(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.05)


@pytest.mark.slow
def test_the_driver_alone_writes_the_store(tasks, place, cluster, tmp_path):
    with Store(tmp_path / "cells.sqlite") as store:
        speeds = measure_speeds(tasks, store, place, engine=cluster)
        assert speeds.keys() == {speed_key(task) for task in tasks}
        run(tasks, store, place, engine=cluster, speeds=speeds)
        assert store.done() == {task.key for task in tasks}
        assert all(cell.forward_equivalents >= 1 for cell in store.cells())
        assert list(cluster(None, [])) == []  # nothing to do sends nothing


@pytest.mark.slow
def test_another_machines_versions_and_frost_are_refused(saved, data, place, cluster, monkeypatch):
    tasks = tasks_of(Grid(("frost",), methods=("source",)), place.bundles, data)
    job = partial(measure_task, place=place)
    ((_, outcome),) = cluster(job, [replace(tasks[0], frost='{"source": "other"}')])
    assert "other pictures of frost" in outcome.reason
    monkeypatch.setattr(ray_cluster, "__version__", "0.0.0")
    ((_, outcome),) = cluster(job, tasks)
    assert outcome.reason.startswith("its machine has another version of acclimate than the driver")


def test_without_ray_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'acclimate\[ray\]'"):
        RayCluster()


@pytest.mark.parametrize("given", [{"workers": 0}, {"threads": 0}])
def test_no_workers_are_refused(given):
    with pytest.raises(InputError, match=r"is 0: give at least 1"):
        RayCluster(**given)


def test_more_threads_than_a_machine_has_cores_are_refused(monkeypatch):
    """Two machines of two cores have no place for a task of three threads: it would never begin."""
    machine = {"Alive": True, "Resources": {"CPU": 2.0}}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [machine, machine, {**machine, "Alive": False}])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    with pytest.raises(InputError, match="has 3 cores, but 2 at most; give fewer threads"):
        RayCluster(threads=3).__enter__()
    with RayCluster(threads=2) as cluster:
        assert cluster.workers == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port", None])
def test_no_cluster_is_one_sentence_at_once(address, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    where = address or "127.0.0.1:1"
    with pytest.raises(InputError, match=f"there is no Ray cluster at {where}: "):
        RayCluster(address).__enter__()
