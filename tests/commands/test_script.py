"""What a script records of its options."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from acclimate.commands.script import recorded_options


@dataclass(frozen=True)
class Options:
    data: str = "/somewhere/cifar10.zip"
    out: Path = Path("/somewhere/out")
    weights: Path | None = Path("/somewhere/resnet20.safetensors")
    bundles: tuple[Path, ...] = (Path("/somewhere/one"), Path("/somewhere/two"))
    state: Path | None = None
    rates: tuple[float, ...] = (0.1, 1.0)


def test_options_are_recorded_as_json_without_folders():
    recorded = recorded_options(Options())
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded == {
        "weights": "resnet20.safetensors",
        "bundles": ["one", "two"],
        "state": None,
        "rates": [0.1, 1.0],
    }


def test_a_reader_that_has_seen_enough_ends_the_program_without_a_word():
    program = "from acclimate.cli import main; main(['--completion', 'bash'])"
    asked = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    asked.stdout.close()
    assert asked.wait(60) == 128 + signal.SIGPIPE
    assert asked.stderr.read() == b""
