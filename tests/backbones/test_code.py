"""Networks that a user's function builds: with permission, and never without."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import acclimate
from acclimate.backbones import build
from acclimate.backbones.code import TRUST, is_code, trusted_code
from acclimate.bundle import Bundle
from acclimate.cli import main
from acclimate.errors import InputError
from acclimate.preprocessing import Preprocessing

MINE = """
import os, pathlib
from torch import nn
import beside_of_mine

pathlib.Path(__file__).with_name("ran").touch()

def build(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4, classes))

class Net(nn.Sequential):
    def __init__(self, width=4, num_classes=6):
        super().__init__(*build(num_classes))

def fixed():
    return build(3)

def two(width, depth):
    return None

def text():
    return "no network"

def fails(classes):
    raise KeyError("conv")

table = {}
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module in the working directory; nothing may be run yet."""
    (tmp_path / "mine_of_test.py").write_text(MINE)
    (tmp_path / "beside_of_mine.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRUST, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("mine_of_test", "beside_of_mine", "acclimate_code_mine_of_test"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["mine_of_test:build", "mine_of_test.py:build"])
def test_without_permission_nothing_is_run(mine, name):
    with pytest.raises(InputError, match=r"is code: build of .*mine_of_test.* --trust-code"):
        build(name, classes=5)
    assert not (mine / "ran").exists()
    assert "mine_of_test" not in sys.modules


@pytest.mark.parametrize("value", ["0", "", "true"])
def test_only_1_is_a_permission(mine, value, monkeypatch):
    monkeypatch.setenv(TRUST, value)
    with pytest.raises(InputError, match="is code"):
        build("mine_of_test:build", classes=5)


@pytest.mark.parametrize(
    ("function", "classes", "outputs"),
    [("build", 5, 5), ("Net", None, 6), ("Net", 7, 7), ("fixed", None, 3), ("fixed", 3, 3)],
)
@pytest.mark.parametrize("module", ["mine_of_test", "mine_of_test.py", "./mine_of_test.py"])
def test_a_function_builds_the_network(mine, monkeypatch, module, function, classes, outputs):
    monkeypatch.setenv(TRUST, "1")
    network = build(f"{module}:{function}", classes=classes).eval()
    assert network(torch.randn(2, 3, 8, 8)).shape == (2, outputs)


def test_weights_replace_those_of_the_function(mine, monkeypatch):
    monkeypatch.setenv(TRUST, "1")
    trained = build("mine_of_test:build", classes=9)
    torch.save({"state_dict": trained.state_dict()}, "last.ckpt")
    loaded = build("mine_of_test:build", classes=None, weights="last.ckpt")
    assert torch.equal(loaded[-1].weight, trained[-1].weight)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mine_of_test:nothing", "has no function nothing"),
        ("mine_of_test:table", "has no function table"),
        ("mine_of_test:two", "needs depth"),
        ("mine_of_test:text", "returns a str, no torch.nn.Module"),
        ("mine_of_test:fails", r"KeyError: 'conv' \(.*mine_of_test\.py, line 26\)"),
        ("mine_of_test.deeper:f", "cannot be built: ModuleNotFoundError"),
        ("absent.py:f", r"there is no file .*absent\.py"),
    ],
)
def test_what_cannot_be_built(mine, monkeypatch, name, reason):
    monkeypatch.setenv(TRUST, "1")
    with pytest.raises(InputError, match=reason):
        build(name, classes=4)


def test_a_function_that_takes_the_number_of_classes_needs_it(mine, monkeypatch):
    monkeypatch.setenv(TRUST, "1")
    with pytest.raises(InputError, match="needs a number of classes"):
        build("mine_of_test:build", classes=None)


@pytest.mark.parametrize(
    "name", ["torchvisoin:resnet18", "timm:resnet", "nomodule.x:f", "a b:c", "__main__x:f", ":f"]
)
def test_typing_errors_are_no_code(mine, name, monkeypatch):
    monkeypatch.setenv(TRUST, "1")
    assert name.startswith("timm") or not is_code(name)
    with pytest.raises(InputError, match="unknown model"):
        build(name, classes=4)


def test_a_bundle_runs_no_code_by_itself(mine, monkeypatch):
    monkeypatch.setenv(TRUST, "1")
    network = build("mine_of_test:build", classes=4)
    torch.save(network.state_dict(), "w.pt")
    bundle = acclimate.wrap("mine_of_test:build", weights="w.pt", preprocessing=Preprocessing(16))
    bundle.save("bundle")
    monkeypatch.delenv(TRUST)
    (mine / "ran").unlink()
    sys.modules.pop("mine_of_test")
    with pytest.raises(InputError, match="--trust-code"):
        Bundle.load("bundle")
    assert not (mine / "ran").exists()
    loaded = Bundle.load("bundle", model=network)
    with trusted_code():
        again = Bundle.load("bundle")
    assert TRUST not in os.environ
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(again.classifier(images), network.eval()(images))
    assert torch.equal(loaded.classifier(images), network.eval()(images))
    assert again.architecture == "mine_of_test:build"


def test_commands_take_the_permission(mine, data, monkeypatch, capsys):
    """wrap, align, info and adapt; bench in processes of its own."""
    (mine / "names.txt").write_text("dark\nlight\n")
    name = ["--model", "mine_of_test:build"]
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setenv(TRUST, "1")
        torch.save({"model": build("mine_of_test:build", classes=2).state_dict()}, "w.pt")
    given = [*name, "--weights", "w.pt", "--class-names", "names.txt"]
    for arguments in (["wrap", *given, "--size", "16", "--out", "plain"],):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "--trust-code" in capsys.readouterr().err
        main([*arguments, "--trust-code"])
        assert "weights: w.pt, prefix 'model.' removed" in capsys.readouterr().err
    for arguments in (
        ["adapt", "plain", str(data), "--out", "x.csv"],
        ["bench", "plain", "--data", str(data), "--out", "runs", "--plan"],
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    main(["info", "plain"])
    assert "the weights fit the network" not in capsys.readouterr().out
    main(["info", "plain", "--trust-code"])
    assert "the weights fit the network" in capsys.readouterr().out
    main(["adapt", "plain", str(data), "--out", "x.csv", "--method", "source", "--trust-code"])
    assert (mine / "x.csv").exists()


@pytest.mark.slow
def test_the_workers_of_a_grid_have_the_permission(mine, data):
    code = "import sys; from acclimate.cli import main; main(sys.argv[1:])"
    (mine / "test").mkdir()
    (mine / "data").mkdir()
    (mine / "data" / "test").symlink_to(data / "train")
    (mine / "names.txt").write_text("dark\nlight\n")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=mine, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    torch.save(nn.Linear(4, 2).state_dict(), mine / "head.pt")
    trained = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    torch.save(trained.state_dict(), mine / "w.pt")
    run(
        "wrap",
        "--model",
        "mine_of_test:build",
        "--weights",
        "w.pt",
        "--size",
        "16",
        "--class-names",
        "names.txt",
        "--out",
        "plain",
        "--trust-code",
    )
    run(
        "bench",
        "plain",
        "--data",
        "data",
        "--out",
        "runs",
        "--corruptions",
        "none",
        "--methods",
        "source",
        "ptbn",
        "--workers",
        "2",
        "--trust-code",
    )
    assert (mine / "runs" / "results.csv").read_text().count("\n") == 3
    run("report", "runs")
