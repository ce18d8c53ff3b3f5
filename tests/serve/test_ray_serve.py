"""The service on a local Ray cluster. It takes a minute, so most of this is slow."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import Mock

import httpx
import numpy as np
import pytest
import torch
from serving import SETTINGS

from acclimate.cli import main
from acclimate.errors import InputError
from acclimate.serve.client import Client
from acclimate.serve.gateway import in_charge
from acclimate.serve.model import Wish
from acclimate.serve.ray_serve import APP, OnRay, Replica, _check_states, deployed
from acclimate.serve.refused import RefusedError
from acclimate.serve.state_files import StateFiles

ray = pytest.importorskip("ray")


def test_states_of_another_number_of_replicas_are_refused(tmp_path):
    what = OnRay(tmp_path, tmp_path / "states", Wish(), replicas=2)
    _check_states(what)
    _check_states(what)
    with pytest.raises(InputError, match="the states of 2 replicas; give --replicas 2"):
        _check_states(replace(what, replicas=3))
    with pytest.raises(InputError, match="replicas is 0"):
        replace(what, replicas=0)
    for least in (0, 3):
        with pytest.raises(InputError, match=f"min_replicas is {least}: give 1 to 2"):
            replace(what, min_replicas=least)
    with pytest.raises(InputError, match="scale_down_s is nan"):
        replace(what, scale_down_s=float("nan"))


def test_ray_serve_is_told_how_many_may_run_and_never_two_of_one_stream(tmp_path):
    serve = pytest.importorskip("ray.serve")
    what = OnRay(tmp_path, tmp_path / "states", Wish(), replicas=3)
    assert [what.scaling(number) for number in range(3)] == [{"num_replicas": 1}] * 3
    what = replace(what, min_replicas=1, scale_down_s=7)
    assert what.scaling(0) == {"num_replicas": 1}
    for number in (1, 2):
        deployment = serve.deployment(Replica).options(**what.scaling(number))
        scaling = deployment._deployment_config.autoscaling_config
        assert (scaling.min_replicas, scaling.max_replicas) == (0, 1)
        assert (scaling.downscale_delay_s, scaling.upscale_delay_s) == (7, 0)


def test_a_switch_is_known_to_replicas_that_start_later_however_it_was_asked_for(served, tmp_path):
    for name in ("first", "second"):
        shutil.copytree(served, tmp_path / name)
    what = OnRay(tmp_path / "first", tmp_path / "states", Wish(device="cpu"), SETTINGS)
    replica = Replica(what, 0)
    kind, body = {"content-type": "application/json"}, b'{"bundle": "second"}'
    status, *_ = asyncio.run(replica.ask("PUT", "/v1/bundle?by=night", kind, body))
    replica._engine.close()
    assert status == 200 and (tmp_path / "states" / "bundle").read_text() == "second"


def test_a_replica_follows_a_switch_that_it_was_not_asked_for(
    served, tmp_path, caplog, monkeypatch
):
    """As when it was being started while the others were switched."""
    for name in ("first", "second"):
        shutil.copytree(served, tmp_path / name)
    what = OnRay(tmp_path / "first", tmp_path / "states", Wish(device="cpu"), SETTINGS)
    replica, told = Replica(what, 0), tmp_path / "states" / "bundle"

    async def bundle():
        replica._look_at = 0.0
        await replica.ask("GET", "/v1/bundle", {}, b"")
        await replica._following  # the request did not wait for it
        return json.loads((await replica.ask("GET", "/v1/bundle", {}, b""))[2])["bundle"]

    async def all_of_it():
        assert await bundle() == "first"
        told.write_text("second")
        with monkeypatch.context() as busy:
            busy.setattr(replica._engine, "switch", Mock(side_effect=RuntimeError("no memory")))
            assert await bundle() == "first"
        assert len(caplog.records) == 1 and "goes on with first: no memory" in caplog.text
        assert await bundle() == "second"  # at a later look
        told.write_text("gone")
        assert await bundle() == "second"
        kind, body = {"content-type": "application/json"}, b'{"bundle": "first"}'
        assert (await replica.ask("PUT", "/v1/bundle", kind, body))[0] == 200
        assert await bundle() == "first" and told.read_text() == "first"
        assert len(caplog.records) == 2

    asyncio.run(all_of_it())
    replica._engine.close()


def test_what_ray_cannot_do_is_told_in_a_sentence(served, tmp_path, capfd):
    for options, expected in (
        (["--engine", "ray"], "needs a --state-dir that all machines share"),
        (["--engine", "ray", "--state-dir", tmp_path, "--traces"], "--traces are not for"),
        (["--ray-address", "auto"], "--ray-address is for --engine ray"),
        (["--min-replicas", "1"], "--min-replicas is for --engine ray"),
        (["--engine", "ray", "--state-dir", tmp_path, "--min-replicas", "3"], "min_replicas is 3"),
        (["--engine", "ray", "--state-dir", tmp_path, "--replicas", "0"], "replicas is 0"),
        (["--engine", "ray", "--state-dir", tmp_path, "--ray-address", "127.0.0.1:1"],
         "there is no Ray cluster at 127.0.0.1:1"),
    ):  # fmt: skip
        with pytest.raises(SystemExit) as ended:
            main(["serve", *map(str, [served, *options])])
        assert ended.value.code == 2
        assert expected in capfd.readouterr().err


@contextmanager
def service_of(bundle, states, replicas, **changes):
    """Serve a bundle with replicas; the port and the replicas' handles."""
    settings = replace(SETTINGS, save_s=0.2, in_memory=50)
    given = {"replicas": replicas, "cpus": 0.5} | changes
    what = OnRay(bundle, states, Wish(device="cpu"), settings, **given)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000,
            log_to_driver=False, logging_level="ERROR",
        )  # fmt: skip
        try:
            with deployed(what, "127.0.0.1", port) as handles:
                yield port, handles
        finally:
            ray.shutdown()


def pictures(seed, count=4):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 16, 16), np.uint8)


@pytest.mark.slow
def test_replicas_that_none_asks_stop_and_come_back_with_their_streams_and_bundle(served, tmp_path):
    from ray import serve

    def runs(number):
        told = serve.status().applications[APP].deployments[f"replica-{number}"]
        return sum(told.replica_states.values())

    def wait_for(count):
        end = time.monotonic() + 90
        while runs(1) != count:
            assert time.monotonic() < end, f"{runs(1)} run, not {count}"
            time.sleep(0.2)

    for name in ("served", "second"):
        shutil.copytree(served, tmp_path / name)
    scaling = {"min_replicas": 1, "scale_down_s": 2}
    names = {in_charge(f"stream {number}", 2): f"stream {number}" for number in range(9)}
    with service_of(tmp_path / "served", tmp_path / "states", 2, **scaling) as (port, _):
        url = f"http://127.0.0.1:{port}"
        with Client(url, retries=60) as client:
            for seed in range(3):
                for name in names.values():
                    client.predict(name, pictures(seed))
            assert client.stats()["replicas"] == 2
            switched = httpx.put(f"{url}/v1/bundle", json={"bundle": "second"}, timeout=60)
            assert switched.json()["bundle"] == "second"
            wait_for(0)
            for _ in range(20):  # what concerns all streams wakes none
                assert client.stats()["replicas"] == 1 and client.streams()["total"] == 1
            assert runs(1) == 0
            again = client.predict(names[1], pictures(3))
            assert again["batches"][0]["number"] == 3 and client.status(names[1])["images"] == 16
            assert client.stats()["replicas"] == 2
            assert (tmp_path / "states" / "bundle").read_text() == "second"
            assert client.predict(names[0], pictures(3))["batches"][0]["number"] == 3


@pytest.mark.slow
def test_the_command_saves_all_when_it_is_ended(served, tmp_path):
    states, text = tmp_path / "states", {"stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "acclimate", "serve", served, "--state-dir", states]
    command += ["--engine", "ray", "--ray-address", "local", "--save-s", "1000", "--device", "cpu"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        command += ["--port", str(free.getsockname()[1])]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(command, env=environment, **text) as driver:
        line = driver.stdout.readline()
        assert "with 2 replicas on http://" in line
        names = [f"camera {number}" for number in range(4)]
        with Client(line.split(" on ")[1].strip(), retries=60) as client:
            for name in names:
                client.predict(name, pictures(0))
        driver.send_signal(signal.SIGTERM)
        said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0 and "all states are saved" in said
    for number in range(2):
        files = StateFiles(states / f"replica-{number}")
        mine = [name for name in names if in_charge(name, 2) == number]
        assert [record["images"] for *_, record in map(files.take, mine)] == [4] * len(mine)
        files.close()


# The clusters of this fixture stay until the end, so its tests come last.
@pytest.fixture(scope="module", params=[2, 4])
def service(request, served, tmp_path_factory):
    """Some replicas; the port and the replicas' handles."""
    with service_of(served, tmp_path_factory.mktemp("states"), request.param) as found:
        yield found


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_streams_are_apart_in_order_and_as_on_one_machine(service, served, engine_of):
    """Eight streams at once on the replicas get what one engine answers, batch by batch."""
    port, handles = service
    names, found = [f"camera {number}" for number in range(8)], {}

    def camera(name):
        with Client(f"http://127.0.0.1:{port}") as client:
            seeds = range(10 * names.index(name), 10 * names.index(name) + 10)
            found[name] = [client.predict(name, pictures(seed)) for seed in seeds]

    threads = [threading.Thread(target=camera, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {in_charge(name, len(handles)) for name in names} == set(range(len(handles)))
    engine = engine_of(served)
    for name in names:
        assert [each["batches"][0]["number"] for each in found[name]] == list(range(10))
        for number, answer in enumerate(found[name]):
            images = torch.from_numpy(pictures(10 * names.index(name) + number))
            alone = engine.submit(name, images).result().record(5)
            assert answer["answers"] == alone["answers"]
            assert answer["verdict"] == alone["verdict"]
    with Client(f"http://127.0.0.1:{port}") as client:
        assert client.stats()["replicas"] == len(handles)
        assert client.streams()["total"] >= 8


@pytest.mark.slow
def test_a_killed_replica_comes_back_with_its_streams(service):
    port, handles = service
    count = len(handles)
    names = {in_charge(f"stream {number}", count): f"stream {number}" for number in range(40)}
    assert len(names) == count
    with Client(f"http://127.0.0.1:{port}", retries=60) as client:
        for name in names.values():
            for seed in range(3):
                client.predict(name, pictures(seed))
        end = time.monotonic() + 30
        while any(client.status(name)["saved_s"] is None for name in names.values()):
            assert time.monotonic() < end, "the states were not saved"
            time.sleep(0.1)
        time.sleep(1)
        os.kill(handles[0].process.remote().result(), signal.SIGKILL)
        for other in range(1, count):  # the other replicas go on meanwhile
            assert client.predict(names[other], pictures(3))["batches"][0]["number"] == 3
        again = client.predict(names[0], pictures(3))
        assert again["batches"][0]["number"] == 3  # and this one from where it was saved
        assert client.status(names[0])["images"] == 16
        with pytest.raises(RefusedError, match="there is no stream"):
            client.status("nowhere")
