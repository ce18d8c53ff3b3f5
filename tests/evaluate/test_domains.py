"""Images of domains of a published set: each loads its own, and none passes for clean images."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.data import Shift, load, streams, subset
from acclimate.errors import InputError
from acclimate.evaluate.grid_run import GridRun, run_grid
from acclimate.evaluate.measure import measure
from acclimate.evaluate.results import read_results
from acclimate.evaluate.task import Grid, tasks_of
from acclimate.evaluate.variant import Variant
from acclimate.report.comparison import compare
from acclimate.report.measured import by_protocol, read_grid
from acclimate.report.reproduce import command
from acclimate.runtime import workers
from acclimate.source.train import untrained

COUNT = 12
PIXELS = np.random.default_rng(3).integers(0, 256, (5 * COUNT, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """CIFAR-10-C with two corruptions of twelve images; snow is darker."""
    folder = tmp_path_factory.mktemp("set") / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "fog.npy", PIXELS)
    np.save(folder / "snow.npy", PIXELS // 2)
    np.save(folder / "labels.npy", np.tile(np.arange(COUNT, dtype=np.uint8) % 10, 5))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("domains") / "bundle"
    torch.manual_seed(0)
    untrained("ptbn", "acclimate:resnet8-w4", 32).save(path)
    return path


@pytest.fixture
def bench(root, bundle, monkeypatch, capsys):
    """Run the command in this process; what it said."""
    monkeypatch.setattr(workers, "processes", lambda *numbers: workers.here)

    def bench(out, *options):
        where = ("--data", "cifar10-c", "--root", str(root), "--out", str(out))
        main(["bench", str(bundle), *where, "--methods", "source", "ptbn", *options])
        return " ".join(capsys.readouterr().out.split())

    return bench


def rows(out):
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_domain_is_measured_on_its_own_images(bench, bundle, root, tmp_path):
    names = ("fog/5", "snow/5", "fog/1")
    said = bench(tmp_path, "--domains", *names, "--batch", "5")
    found = {(row["method"], row["domain"]): row for row in rows(tmp_path)}
    assert set(found) == {(method, name) for method in ("source", "ptbn") for name in names}
    assert {(row["corruption"], row["severity"]) for row in found.values()} == {("", "")}
    assert "cifar10-c, shuffled, batches of 5: accuracy" in said and "clean" not in said
    direct = load("cifar10-c", "test", root=root, domain="snow/5")
    (cell,) = measure(
        Bundle.load(bundle), Variant("source"), direct, [Shift(domain="snow/5")], batch=5
    )
    kept = found["source", "snow/5"]
    assert float(kept["accuracy"]) == cell.accuracy and float(kept["nll"]) == cell.nll
    assert len({row["nll"] for (method, _), row in found.items() if method == "source"}) == 3


def test_domains_are_columns_of_one_table(bench, tmp_path):
    bench(tmp_path, "--domains", "fog/5", "snow/5")
    for name in ("cells.sqlite", None):  # with the store, then from results.csv alone
        measured, manifest = read_grid(tmp_path)
        ((protocol, cells),) = by_protocol(measured).items()
        assert (protocol.dataset, protocol.severity) == ("cifar10-c", None)
        table = compare(cells)
        assert [(c.name, c.kind) for c in table.columns] == [
            ("mean", "mean"), ("fog/5", "reported"), ("snow/5", "reported"),
        ]  # fmt: skip
        accuracy = {row["domain"]: float(row["accuracy"]) for row in rows(tmp_path)[:2]}
        source = table.rows[0]
        assert [s.mean for s in source.scores[1:]] == [accuracy["fog/5"], accuracy["snow/5"]]
        assert source.scores[0].mean == pytest.approx(sum(accuracy.values()) / 2)
        if name:
            (tmp_path / name).unlink()
    (grid,) = manifest["grids"]
    assert grid["domains"] == ["fog/5", "snow/5"] and grid["corruptions"] == []
    words = command(grid)
    assert "--data cifar10-c" in words and "--domains fog/5 snow/5" in words
    assert "--corruptions" not in words
    main(["report", str(tmp_path)])
    page = (tmp_path / "report.html").read_text()
    assert ">fog/5<" in page and ">snow/5<" in page


def test_a_run_resumes_and_gains_domains(bench, tmp_path):
    bench(tmp_path, "--domains", "fog/5")
    first = rows(tmp_path)
    bench(tmp_path, "--domains", "fog/5", "fog/3")
    found = rows(tmp_path)
    assert [row for row in found if row["domain"] == "fog/5"] == first
    assert [cell.domain for cell in read_results(tmp_path / "results.csv")] == [
        "fog/3",
        "fog/5",
    ] * 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--domains", "fog/5", "--corruptions", "none"), "'fog/5' are measured as they are"),
        (("--domains", "fog/5", "--corruptions", "fog"), "'fog/5' are measured as they are"),
        ((), "cifar10-c has domains: choose one of"),
        (("--domains", "fgo/5"), "unknown domain of cifar10-c 'fgo/5'"),
        (("--domains", "fog/5", "--orders", "continual"), "'continual' needs a corruption"),
    ],
)
def test_bad_input_ends_in_one_sentence(options, expected, bench, tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench(tmp_path / "out", *options)
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.csv").exists()


@pytest.fixture
def fog(root):
    return load("cifar10-c", "test", root=root, domain="fog/5")


def test_images_of_a_domain_are_never_clean_ones(fog, bundle, tmp_path):
    """Whoever calls: the command line, a grid from Python, or one measurement."""
    clean = replace(fog, domain="")
    with pytest.raises(InputError, match="of the domain 'fog/5' cannot come under 'none'"):
        measure(Bundle.load(bundle), Variant("source"), fog, [streams.CLEAN])
    with pytest.raises(InputError, match="of no domain cannot come under 'fog/5'"):
        measure(Bundle.load(bundle), Variant("source"), clean, [Shift(domain="fog/5")])
    for corruptions in (("none",), ("none", "fog")):
        with pytest.raises(InputError, match="leave the corruptions out"):
            tasks_of(Grid(corruptions, methods=("source",)), {"b": bundle}, fog)
    (task,) = tasks_of(Grid(methods=("source",)), {"b": bundle}, fog)
    assert task.shifts == (Shift(domain="fog/5"),)
    (same,) = tasks_of(Grid(("none",), methods=("source",)), {"b": bundle}, clean)
    assert same.images == task.images and same.key != task.key


def test_a_subset_of_a_domain_stays_of_it(fog, bundle, tmp_path):
    run = GridRun(Grid(methods=("source",)), {"b": bundle}, (lambda: subset(fog, 6),))
    ((_, cell),), errors = run_grid(run, tmp_path)
    assert not errors and (cell.n_images, cell.domain, cell.condition) == (6, "fog/5", "fog/5")
    assert json.loads((tmp_path / "manifest.json").read_text())["grids"][0]["images"] == 6


def test_orders_by_class_take_domains(fog, bundle, tmp_path):
    grid = Grid(methods=("source",), orders=("class-correlated", "label-shifted"))
    measured, errors = run_grid(GridRun(grid, {"b": bundle}, (lambda: fog,)), tmp_path)
    assert not errors
    assert [(m.cell.order, m.cell.condition) for m in measured] == [
        ("class-correlated", "fog/5"), ("label-shifted", "fog/5"),
    ]  # fmt: skip
