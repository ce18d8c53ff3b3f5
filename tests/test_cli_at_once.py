"""What the command line answers at once: help, the list of methods, and messages."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import acclimate
from acclimate.adapt import Adapter
from acclimate.cli import main
from acclimate.commands import VERBS, kept_help, summary, verb_class
from acclimate.evaluate import costs
from acclimate.evaluate.costs import count_cost
from acclimate.methods import METHODS
from acclimate.methods.words import tried_on_transformer
from acclimate.source.train import untrained

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "build"))
try:
    import help_texts as kept
    import method_list as listed
finally:
    sys.path.pop(0)

HEAVY = {"torch", "torchvision", "timm", "transformers", "matplotlib", "plotly", "sklearn"}
AT_ONCE = [
    [],
    ["--help"],
    ["--version"],
    ["methods"],
    ["methdos"],
    *([verb, "--help"] for verb in VERBS),
]


@pytest.mark.parametrize("arguments", AT_ONCE, ids=" ".join)
def test_nothing_heavy_is_imported(arguments):
    probe = f"""
import sys
from acclimate.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("heavy:", sorted({HEAVY!r} & {{*sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_importing_the_package_imports_nothing_heavy():
    probe = f"import sys, acclimate, acclimate.cli; print({HEAVY!r} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_importing_the_package_takes_no_time_and_no_other_package():
    probe = """
import sys, time
before, started = {*sys.modules}, time.perf_counter()
import acclimate
seconds = time.perf_counter() - started
tops = {name.partition(".")[0] for name in {*sys.modules} - before}
print(seconds, *sorted(tops - sys.stdlib_module_names))
"""
    run = [sys.executable, "-c", probe]
    said = [subprocess.run(run, capture_output=True, text=True, check=True) for _ in range(3)]
    words = [each.stdout.split() for each in said]
    assert [others for _, *others in words] == [["acclimate"]] * 3
    assert min(float(spent) for spent, *_ in words) < 0.3


def test_public_names_import_no_optional_package():
    optional = {"transformers", "open_clip", "onnx", "onnxruntime", "cmaes", "pillow_heif", "ray"}
    optional |= {"fastapi", "uvicorn", "httpx", "prometheus_client", "opentelemetry", "sklearn"}
    probe = f"""
import sys, acclimate
found = [getattr(acclimate, name) for name in acclimate.__all__]
print(sorted({optional!r} & {{*sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"acclimate {acclimate.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["adapt", "--help"], ["methods"]], ids=" ".join)
def test_answers_take_little_longer_than_their_libraries(arguments):
    """With torch it is ten times as long and more."""
    ours = [sys.executable, "-m", "acclimate", *arguments]
    libraries = [sys.executable, "-c", "import numpy, tyro, rich.table, rich.progress"]
    assert min(map(seconds, [ours] * 3)) < 5 * min(map(seconds, [libraries] * 3))


def seconds(command):
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - started


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_all_verbs_begins_with_the_docstring(verb):
    text = " ".join((verb_class(verb).__doc__ or "").split("\n\n")[0].split())
    assert summary(verb) == text


@pytest.mark.parametrize("verb", kept.VERBS)
def test_kept_help_is_what_the_parser_says(verb):
    def words(text):
        text = text.partition("\n\n")[2]  # without the line of usage, which is tyro's
        return re.sub(r"[\s─│╭╮╰╯-]+", " ", text).split()

    assert words(kept_help(verb) or "") == words(kept.told(verb)), (
        "the help changed: run python docs/build/help_texts.py to write it anew"
    )


def test_only_the_help_of_verbs_with_settings_is_kept():
    assert [verb for verb in VERBS if kept_help(verb)] == list(kept.VERBS)


def record():
    return json.loads(listed.RECORD.read_text(encoding="utf-8"))


ANEW = "the methods changed: run python docs/build/method_list.py to write them anew"


def test_the_list_of_methods_is_that_of_the_code():
    rows = record()["methods"]
    assert list(rows) == list(METHODS), ANEW
    for name, row in rows.items():
        assert {key: row[key] for key in listed.words(name)} == listed.words(name), ANEW


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("source", "tent", "cta") else pytest.param(name, marks=pytest.mark.slow)
        for name in METHODS
    ],
)
def test_listed_costs_are_what_is_counted(name):
    row = record()["methods"][name]
    assert {key: row[key] for key in listed.cost(name)} == pytest.approx(listed.cost(name)), ANEW


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_counting_few_images_is_counting_a_batch(name):
    size, batch = listed.NETWORK["size"], costs.BATCH
    transformer = tried_on_transformer(METHODS[name])
    model = listed.NETWORK["transformer" if transformer else "model"]
    whole = Adapter(untrained(name, model, size), name, device="cpu").cost(batch)
    few = count_cost(name, model, size)
    assert few.forward_equivalents == pytest.approx(whole.forward_equivalents, rel=1e-6)
    assert few.moving_parameters == whole.moving_parameters


@pytest.mark.parametrize("name", ["tent", "rotta", "acclimate", "foa"])
def test_a_listed_state_is_that_of_a_snapshot(name):
    transformer = tried_on_transformer(METHODS[name])
    model = "acclimate:vit2-w16-p4" if transformer else "acclimate:resnet8-w4"
    adapter = Adapter(untrained(name, model, 16), name, device="cpu")
    assert count_cost(name, model, 16).state_bytes == adapter.snapshot().nbytes


def test_a_time_is_that_of_one_core_over_the_frozen_classifier_s(monkeypatch):
    monkeypatch.setattr(costs, "BATCH", 8)
    threads = torch.get_num_threads()
    ratio, milliseconds = costs.time_over_frozen("tent", "acclimate:resnet8-w4", 16, rounds=1)
    assert ratio > 1 and milliseconds > 0 and torch.get_num_threads() == threads


def test_a_step_of_cta_is_counted_as_in_a_whole_batch():
    whole = Adapter(untrained("cta", "acclimate:resnet8-w4", 16), "cta", device="cpu").cost(40)
    few = count_cost("cta", "acclimate:resnet8-w4", 16, batch=40)
    assert few.forward_equivalents == pytest.approx(whole.forward_equivalents, rel=1e-6)
    assert few.activation_bytes == pytest.approx(whole.activation_bytes, rel=0.01)


def test_methods_are_listed_with_costs(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["methods"])
    said = capsys.readouterr().out
    for name, row in record()["methods"].items():
        (line,) = [line for line in said.splitlines() if re.search(rf"│ {name} +│", line)]
        assert name in said and f"{row['forward_equivalents']:.1f}" in line
        assert f"{row['time']:.1f}" in line and f"{row['state_bytes'] / 1e3:,.1f}" in line
    assert f"{record()['methods']['source']['milliseconds']:.2g} ms" in said
    assert "128" in said and "resnet14-w16" in said


def test_methods_are_listed_with_what_they_cost_on_a_network_of_one_s_own(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["methods", "--model", "acclimate:resnet8-w4", "--size", "16", "--transformer", "timm:no"])
    said = capsys.readouterr().out
    assert all(name in said for name in METHODS)
    assert "target images" in said and "10 steps an" in said
    assert "MiB of memory" in said and "not on timm:no" in said
    cost = count_cost("cta", "acclimate:resnet8-w4", 16)
    (line,) = [line for line in said.splitlines() if re.search(r"\bcta \s", line)]
    assert f"{cost.forward_equivalents:.1f}" in line and f"{cost.moving_parameters:,}" in line


def test_counting_that_does_not_fit_is_refused_before_it_begins(capsys, monkeypatch):
    monkeypatch.setattr(costs, "free_bytes", lambda device: 1000)
    with pytest.raises(SystemExit) as stop:
        main(["methods", "--model", "acclimate:resnet8-w4", "--size", "16"])
    assert stop.value.code == 2
    assert "give a smaller --size" in capsys.readouterr().err
