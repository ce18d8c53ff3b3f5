import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import acclimate

ROOT = Path(__file__).parents[1]
NOT_CODE = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Source archive and the wheel made of it, from a copy: no earlier build leaks in."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "MANIFEST.in", *NOT_CODE):
        shutil.copy(ROOT / name, tree)
    for name in ("acclimate", "benchmarks", "docs", "examples", "scripts", "studies", "tests"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--no-isolation"]
    done = subprocess.run(build, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(built):
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_wheel_holds_every_file_of_the_package_unchanged(contents):
    package = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for path in (ROOT / "acclimate").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {name: contents.get(name) for name in package} == package


def test_wheel_holds_what_is_not_code(contents):
    data = "acclimate/data/fashion_mnist_mini"
    assert f"{data}/fashion_mnist_mini.npz" in contents
    assert f"{data}/NOTICE.md" in contents
    assert "acclimate/py.typed" in contents
    assert any(name.startswith("acclimate/report/") and ".html" in name for name in contents)
    (license_file,) = [name for name in contents if name.endswith(".dist-info/licenses/LICENSE")]
    assert contents[license_file] == (ROOT / "LICENSE").read_bytes()


def test_wheel_holds_nothing_else(contents):
    tops = {name.split("/")[0] for name in contents}
    assert tops == {"acclimate", f"acclimate-{acclimate.__version__}.dist-info"}
    assert not [name for name in contents if Path(name).name.startswith(("test_", "conftest"))]
    assert not [name for name in contents if name.endswith(".pyc")]


def test_wheel_is_small(wheel):
    assert wheel.stat().st_size < 10e6


def test_the_source_archive_holds_the_package_and_what_is_said_of_it(built):
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tops = {name.partition("/")[0] for name in names} - {"", "setup.cfg", "acclimate.egg-info"}
    assert tops == {"acclimate", "pyproject.toml", "MANIFEST.in", "PKG-INFO", *NOT_CODE}


def test_version_is_the_packages_own(contents):
    (name,) = [name for name in contents if name.endswith(".dist-info/METADATA")]
    metadata = Parser().parsestr(contents[name].decode())
    assert metadata["Version"] == acclimate.__version__
    assert f"version: {acclimate.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_changes_are_of_this_version_or_not_released_yet():
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^## \[?([\w.]+)\]?", changes, re.MULTILINE)
    assert first in ("Unreleased", acclimate.__version__)
    released = others if first == "Unreleased" else [first, *others]
    assert released[0] == acclimate.__version__
    assert released == sorted(released, key=lambda v: [*map(int, v.split("."))], reverse=True)


def test_pythons_are_named_as_they_are_tested(contents):
    (name,) = [name for name in contents if name.endswith(".dist-info/METADATA")]
    classifiers = Parser().parsestr(contents[name].decode()).get_all("Classifier") or []
    told = re.findall(r"Python :: (3\.\d+)", "\n".join(classifiers))
    jobs = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    (tested,) = re.findall(r"python: \[(.*)\]", jobs)
    assert re.findall(r"[\d.]+", tested) == told


def test_command_is_installed(contents):
    (name,) = [name for name in contents if name.endswith(".dist-info/entry_points.txt")]
    assert "acclimate = acclimate.cli:main" in contents[name].decode()
