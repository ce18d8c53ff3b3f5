"""``acclimate doctor``: each check finds what was made wrong for it, and says what to do."""

import json
import os
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from acclimate.cli import main
from acclimate.commands import machine_checks
from acclimate.commands.machine_checks import EXTRAS, Finding

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"dev", "benchmarks"}


def doctor(capsys, *options):
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *options])
        raise SystemExit(0)
    return stopped.value.code, capsys.readouterr().out


def test_a_healthy_machine_in_words_and_as_json(capsys):
    code, said = doctor(capsys)
    assert code == 0 and "✗" not in said
    code, text = doctor(capsys, "--json")
    found = {each["name"]: each for each in json.loads(text)}
    assert code == 0
    assert found["a gradient step"]["value"].startswith("works on ")
    assert all(name in said for name in found)
    moving = "free memory", "cache"  # other programs use them too
    assert all(found[name]["value"] in said for name in set(found) - set(moving))
    assert found["torch"]["value"].startswith(str(torch.__version__))


def test_every_extra_for_users_is_looked_at_with_all_its_packages():
    extras = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - FOR_DEVELOPERS
    for name, (packages, _) in EXTRAS.items():
        required = {each.partition(">")[0].partition("[")[0] for each in extras[name]}
        assert set(packages) == required, name


def test_a_missing_package_comes_with_the_command_that_installs_it(capsys, monkeypatch):
    monkeypatch.setitem(EXTRAS, "foa", (("no-such-package",), "the method foa"))
    code, said = doctor(capsys)
    assert code == 0, "what is optional is no fault"
    assert "not installed: no-such-package" in said
    assert "pip install 'acclimate[foa]'" in said


def test_a_fault_is_marked_and_is_the_exit_code(capsys, monkeypatch):
    monkeypatch.setattr(
        machine_checks, "look", lambda: [Finding("gpu", "broken", "fault", "Mend it.")]
    )
    code, said = doctor(capsys)
    assert code == 1
    assert "✗ gpu  broken" in said and "Mend it." in said


def test_torch_that_cannot_be_imported_is_one_sentence(capsys, monkeypatch):
    monkeypatch.delitem(sys.modules, "acclimate.commands.machine_checks")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == 2
    assert "torch cannot be imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("written", "cores"),
    [("max 100000", None), ("150000 100000", 2), ("10000 100000", 1), ("nonsense", None)],
)
def test_cores_are_at_most_what_the_container_has(tmp_path, monkeypatch, written, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(written)
    assert machine_checks.usable_cores(tmp_path / "cpu.max") == (cores or 8)
    assert machine_checks.usable_cores(tmp_path / "missing") == 8


@pytest.mark.parametrize(("used", "state"), [(9, "note"), (8, "good"), (1, "note")])
def test_threads_that_do_not_fit_the_cores(monkeypatch, used, state):
    monkeypatch.setattr(machine_checks, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: used)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = machine_checks.threads()
    assert found.state == state
    assert ("OMP_NUM_THREADS" in found.remedy) == (state == "note")


def test_a_driver_that_torch_cannot_use(tmp_path, monkeypatch):
    (tmp_path / "version").touch()
    monkeypatch.setattr(machine_checks, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert machine_checks.accelerator().state == "note"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = machine_checks.accelerator()
    assert found.state == "fault" and "--gpus all" in found.remedy


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    found = machine_checks.cached(tmp_path / "file" / "cache")
    assert found.state == "fault" and "ACCLIMATE_CACHE" in found.remedy
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "pixels").write_bytes(bytes(3_000_000))
    found = machine_checks.cached(tmp_path / "cache")
    assert "3 MB" in found.value


def test_a_device_without_finite_gradients_is_a_fault(monkeypatch):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))

        def forward(self, images):
            return images.mean((2, 3)) * self.weight * float("nan")

    monkeypatch.setattr("acclimate.backbones.build", lambda *_, **__: Broken())
    found = machine_checks.works(torch.device("cpu"))
    assert found.state == "fault" and "not finite" in found.value
