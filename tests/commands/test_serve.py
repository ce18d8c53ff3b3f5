"""``acclimate serve``: what its options stand for; tests/serve runs the server."""

import json
from pathlib import Path

import pytest

from acclimate import cli
from acclimate.advise import settings_file
from acclimate.errors import InputError
from acclimate.evaluate.variant import Variant
from acclimate.serve.engine import Engine
from acclimate.storage.atomic import sha256


def command(*given):
    return cli.parse("serve", [str(each) for each in given])


@pytest.fixture
def advice(saved, tmp_path):
    """A settings file for the bundle, and its record."""
    variant = Variant.of("tent", {"update.learning_rate": 0.002})
    weights = sha256(saved / "weights.safetensors")
    settings_file.save(
        tmp_path / "advice.json", settings_file.SettingsFile(variant, 16, "shadow", weights)
    )
    return tmp_path / "advice.json"


def test_advice_is_served_as_it_says(saved, advice):
    wish, limits = command(saved, "--settings", advice)._wish()
    assert (wish.method, wish.guard, limits.batch) == ("tent", "shadow", 16)
    assert wish.settings.update.learning_rate == 0.002
    engine = Engine(saved, limits, wish)
    assert engine.model.adapter.settings.update.learning_rate == 0.002
    assert engine.model.modes[0] == "shadow" and "frozen" in engine.model.note
    engine.close()
    wish, limits = command(saved, "--settings", advice, "--batch", 8, "--guard", "off")._wish()
    assert (wish.guard, limits.batch) == ("off", 8)


def test_advice_for_another_bundle_or_beside_a_method_is_refused(saved, advice):
    with pytest.raises(InputError, match="names the method"):
        command(saved, "--settings", advice, "--method", "tent")._wish()
    record = json.loads(advice.read_text())
    record["bundle"]["weights_sha256"] = "0" * 64
    advice.write_text(json.dumps(record))
    with pytest.raises(InputError, match="other weights"):
        command(saved, "--settings", advice)._wish()


def test_what_is_known_of_the_classes_is_wished_for(saved, advice):
    assert command(saved)._wish()[0].class_shares == "any"
    for given in ((), ("--settings", advice)):
        wish, _ = command(saved, "--class-shares", "as-source", *given)._wish()
        assert wish.class_shares == "as-source"


def test_limits_are_options_by_their_own_names(saved):
    made = command(saved, "--wait-ms", "1.5", "--in-memory", 7, "--state-dir", "states")
    assert (made.limits.wait_ms, made.limits.in_memory) == (1.5, 7)
    assert made.state_dir == Path("states") and made.host == "127.0.0.1"


def test_its_help_needs_no_torch():
    import subprocess
    import sys

    code = "import sys; from acclimate.commands.serve import Serve; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"
