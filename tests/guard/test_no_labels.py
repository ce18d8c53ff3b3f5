"""Nothing of a guard reads a label, but the one method that is there to be told some."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import torch

import acclimate.guard
from acclimate.adapt import Adapter
from acclimate.data import LabelledImages
from acclimate.guard import Guard
from acclimate.guard.labels import Labels

TOLD = {"Guard.reveal", "Memory.reveal", "Labels.learn"}
"""What may be given a label. The last two are called by the first alone."""


def functions():
    """All functions of the package, with their names."""
    for found in pkgutil.iter_modules(acclimate.guard.__path__, "acclimate.guard."):
        module = importlib.import_module(found.name)
        own = [
            each for each in vars(module).values() if getattr(each, "__module__", "") == found.name
        ]
        for each in own:
            if inspect.isfunction(each):
                yield each.__name__, each
            if inspect.isclass(each):
                for name, method in vars(each).items():
                    method = getattr(method, "__func__", method)
                    if inspect.isfunction(method):
                        yield f"{each.__name__}.{name}", method


def takes_a_label(function):
    """Whether a parameter is called so, other than the memory of what labels have shown."""
    return any(
        parameter.annotation is not Labels
        for name, parameter in inspect.signature(function).parameters.items()
        if name in ("label", "labels", "target", "targets")
    )


def test_only_reveal_takes_a_label():
    taking = {name for name, function in functions() if takes_a_label(function)}
    assert taking == TOLD
    assert len(list(functions())) > 40


def test_no_type_has_labels():
    for name, function in functions():
        hints = " ".join(map(str, inspect.get_annotations(function).values()))
        assert not re.search(r"LabelledImages|Labelled", hints), name


def test_reveal_is_called_by_no_one():
    """But by the guard itself, once in an example; and by a service, where users reveal labels."""
    package = Path(acclimate.__file__).parent
    counts = {
        str(path.relative_to(package)): path.read_text().count(".reveal(")
        for path in package.rglob("*.py")
        if "serve" not in path.parts
    }
    assert {name: n for name, n in counts.items() if n} == {"guard/guard.py": 2}


def test_scrambled_labels_give_the_same_bits(guarded, images):
    bundle = guarded("tent")
    labels = torch.arange(len(images)) % 4
    results = []
    for given in (labels, labels[torch.randperm(len(labels))]):
        data = LabelledImages(images, given, tuple("abcd"), "tiny")
        guard = Guard(Adapter(bundle, "tent"), bundle)
        answers = torch.cat([guard(batch) for batch in data.images[:96].split(16)])
        results.append((answers, guard.snapshot().tensors, guard.verdict.estimate))
    (first, state, estimate), (second, other, again) = results
    assert torch.equal(first, second) and estimate == again
    assert all(torch.equal(state[name], other[name]) for name in state)
