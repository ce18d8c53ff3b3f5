"""The files of deploy/: what they name exists, and what they run is understood."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import tyro

from acclimate.commands.serve import Serve
from acclimate.serve.settings import ServeSettings

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
LONGEST_STOP = 1 + ServeSettings().timeout_s + ServeSettings().upload_s
"""Seconds that the service takes to end, but for saving."""


def served(arguments):
    """The command as it is understood."""
    return tyro.cli(Serve, args=arguments)


@pytest.fixture(scope="module")
def dockerfile():
    """Each instruction and its text."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_image_runs_a_command_that_there_is(dockerfile):
    last = dict(dockerfile)
    entry, command = json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"])
    assert entry == ["acclimate", "serve"]
    found = served(command)
    assert (found.host, found.port, str(found.state_dir)) == ("0.0.0.0", 8000, "/states")
    assert last["EXPOSE"] == "8000" and last["VOLUME"] == "/states"
    assert last["USER"] == "acclimate"  # not root
    probe = re.search(r"CMD (\[.*\])", last["HEALTHCHECK"])
    program = json.loads(probe[1])
    compile(program[2], "health", "exec")
    assert program[:2] == ["python", "-c"] and "/v2/health/ready" in program[2]


def test_the_image_is_made_of_files_and_extras_that_there_are(dockerfile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [re.search(r"'\.\[(.+)\]'", text) for kind, text in dockerfile if kind == "RUN"]
    (named,) = filter(None, extras)
    assert set(named[1].split(",")) <= set(project["optional-dependencies"])
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [text.split()[:-1] for kind, text in dockerfile if kind == "COPY"]
    for source in [each for names in copied if not names[0].startswith("--") for each in names]:
        assert (ROOT / source).exists() and f"!{source}" in ignored
    known = {kind for kind, _ in dockerfile}
    assert known <= {
        "ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL",
        "HEALTHCHECK", "ENTRYPOINT", "CMD",
    }  # fmt: skip


def test_compose_fits_the_image_and_prometheus_finds_it(dockerfile, compose):
    service = compose["services"]["acclimate"]
    arguments = {text.split("=")[0] for kind, text in dockerfile if kind == "ARG"}
    assert set(service["build"]["args"]) <= arguments
    assert (ROOT / service["build"]["dockerfile"]).is_file()
    assert served(service["command"]).host == "0.0.0.0"
    assert all(each.startswith("127.0.0.1:") for each in service["ports"])  # no tokens, no others
    assert int(service["stop_grace_period"].removesuffix("s")) > LONGEST_STOP
    prometheus = compose["services"]["prometheus"]
    mounted = [each.split(":")[0] for each in prometheus["volumes"]]
    assert (ROOT / mounted[0]).is_file()
    assert set(compose["volumes"]) == {"states", "metrics"}
    job = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"][0]
    assert job["metrics_path"] == "/metrics"
    assert job["static_configs"][0]["targets"] == ["acclimate:8000"]


def test_the_unit_runs_a_command_that_there_is():
    unit = configparser.ConfigParser(interpolation=None, strict=False, comment_prefixes="#")
    unit.optionxform = str
    unit.read(DEPLOY / "acclimate.service")
    service = unit["Service"]
    program, verb, *options = shlex.split(service["ExecStart"])
    assert (Path(program).name, verb) == ("acclimate", "serve")
    found = served(options)
    assert str(found.state_dir) == f"/var/lib/{service['StateDirectory']}"
    assert found.host == "127.0.0.1" and found.token_file is not None
    assert float(service["TimeoutStopSec"]) > LONGEST_STOP


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_understands_the_unit():
    command = ["systemd-analyze", "verify", DEPLOY / "acclimate.service"]
    done = subprocess.run(command, capture_output=True, text=True)
    wrong = [line for line in done.stderr.splitlines() if "is not executable" not in line]
    assert not [line for line in wrong if "acclimate.service" in line]


def has_compose():
    found = shutil.which("docker")
    version = [found or "docker", "compose", "version"]
    return found and subprocess.run(version, capture_output=True).returncode == 0


@pytest.mark.skipif(not has_compose(), reason="there is no docker compose")
def test_docker_understands_the_compose_file(tmp_path):
    command = ["docker", "compose", "--file", DEPLOY / "compose.yaml", "config", "--quiet"]
    subprocess.run(command, check=True, env=os.environ | {"BUNDLE": str(tmp_path)})
