"""Served bundles: tiny, with a guard's calibration that was made up, and without."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from serving import SETTINGS, Served
from starlette.testclient import TestClient

from acclimate.guard.calibration import Answered, calibrated
from acclimate.methods import METHODS
from acclimate.serve.app import create_app
from acclimate.serve.auth import Tokens
from acclimate.serve.engine import Engine
from acclimate.serve.model import Wish
from acclimate.serve.service import Service


def with_calibration(bundle, name):
    """What the curves say does not matter here, only that there are some."""
    draw = torch.Generator().manual_seed(0)
    classes, sets = len(bundle.classes), []
    for shift in ("clean", "noise"):
        frozen, adapted = torch.randn(2, 64, classes, generator=draw)
        truth = torch.randn(64, classes, generator=draw).softmax(1)
        sets.append(
            Answered(shift, False, False, torch.zeros(64, 5), frozen, adapted, [16] * 4, truth)
        )
    tensors = calibrated(sets).tensors(f"{METHODS[name].model}.guard.")
    return replace(bundle, statistics=bundle.statistics | tensors, method=name)


@pytest.fixture(scope="package")
def served(bundle_of, tmp_path_factory):
    """Folder of a bundle with a guard, for tent; not to be changed."""
    path = tmp_path_factory.mktemp("served") / "served"
    with_calibration(bundle_of("tent"), "tent").save(path)
    return path


@pytest.fixture(scope="package")
def unguarded(bundle_of, tmp_path_factory):
    """Folder of a bundle without a guard, for tent; not to be changed."""
    path = tmp_path_factory.mktemp("unguarded") / "unguarded"
    replace(bundle_of("tent"), method="tent").save(path)
    return path


@pytest.fixture
def engine_of():
    """Makes engines, which end with the test."""
    made = []

    def make(path, state_dir=None, start=True, method=None, **changes):
        settings = replace(SETTINGS, **changes)
        engine = Engine(path, settings, Wish(method=method, device="cpu"), state_dir)
        made.append(engine)
        return engine.start() if start else engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def client_of(engine_of, served):
    """Makes clients of services, which end with the test."""
    made = []

    def make(path=None, tokens=None, state_dir=None, **changes):
        engine = engine_of(path or served, state_dir, start=False, **changes)
        client = TestClient(create_app(Service(engine, Tokens(tokens))))
        made.append(client)
        return client.__enter__()

    yield make
    for client in made:
        client.__exit__(None, None, None)


@pytest.fixture
def client(client_of):
    """A client of a service with a guard."""
    return client_of()


@pytest.fixture
def served_by(engine_of, served):
    """Starts servers in threads, which end with the test."""
    made = []

    def start(path=None, state_dir=None, tls=None, **changes):
        engine = engine_of(path or served, state_dir, start=False, **changes)
        made.append(Served(engine, tls))
        return made[-1]

    yield start
    for server in made:
        server.end()


@pytest.fixture(scope="session")
def npy():
    """The content of an .npy file of an array."""

    def content(array):
        file = io.BytesIO()
        np.save(file, np.asarray(array))
        return file.getvalue()

    return content


@pytest.fixture(scope="session")
def png():
    """The content of a PNG file of an image ``[3, height, width]``."""

    def content(image, kind="PNG"):
        file = io.BytesIO()
        Image.fromarray(np.asarray(image).transpose(1, 2, 0)).save(file, kind)
        return file.getvalue()

    return content


@pytest.fixture
def one_thread():
    """As servers in processes of their own have: two threads would round sums in another way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
