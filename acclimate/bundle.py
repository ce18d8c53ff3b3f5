"""The one artefact that training makes and deployment loads: a folder, verified byte by byte."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from acclimate.backbones import FORMS, Classifier, build, projected, split
from acclimate.errors import InputError, unknown_name
from acclimate.objectives import OBJECTIVES, Objective
from acclimate.preprocessing import Preprocessing
from acclimate.storage import atomic
from acclimate.storage.sealed import plain, read_safetensors

SCHEMA = 2
CUSTOM = "custom"
"""The architecture of a classifier that no registered name builds."""
_MAX_JSON_BYTES = 16 * 2**20


@dataclass
class Bundle:
    """What answers, what it learns from at deployment, and all else that deployment needs."""

    classifier: Classifier
    """h∘f, as it was before any adaptation."""
    twin: Classifier | None
    """h'∘(π∘g): its encoder is a ``Sequential`` of ``encoder`` and ``projector``."""
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    """A name for each output of the head."""
    method: str = "cta"
    """The row of `acclimate.methods.METHODS` that an adapter uses unless told otherwise."""
    recipe: str = "cta"
    """The row of `acclimate.methods.RECIPES` by which it was made."""
    objective: Objective | None = None
    """The self-supervised objective that was trained with the model, with its parts."""
    options: dict[str, Any] = field(default_factory=dict)
    """What the objective was constructed with; JSON can hold it."""
    form: str = "plain"
    """How the classifier was made of its architecture, a name of `acclimate.backbones.FORMS`."""
    architecture: str = CUSTOM
    """The classifier's registered name."""
    twin_architecture: str = CUSTOM
    """The registered name of the classifier whose encoder g is."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How it was made: seed, settings, data, versions."""

    @property
    def modules(self) -> nn.ModuleDict:
        """Classifier, twin and objective, as far as there are such: what has weights."""
        named = {"classifier": self.classifier, "twin": self.twin, "objective": self.objective}
        return nn.ModuleDict({name: part for name, part in named.items() if part is not None})

    def save(self, path: str | Path) -> None:
        """Write the bundle as a folder: all of it appears at once, or nothing.

        Raises:
            InputError: the path exists already, or cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists already; choose another place or remove it first.")
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            aside.mkdir(parents=True)
            self._write(aside)
            atomic.sync(aside)
            aside.rename(path)
            atomic.sync(path.parent)
        except OSError as error:
            raise atomic.cannot_write(path, error) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        tensors = plain(self.modules.state_dict())
        atomic.write_atomically(
            folder / "weights.safetensors", lambda aside: save_file(tensors, aside)
        )
        record = {
            "schema": SCHEMA,
            "architecture": self.architecture,
            "twin_architecture": self.twin_architecture if self.twin else None,
            "preprocessing": asdict(self.preprocessing),
            "classes": list(self.classes),
            "method": self.method,
            "recipe": self.recipe,
            "form": self.form,
            "objective": _named(self.objective, self.options),
            "provenance": self.provenance,
            "weights_sha256": atomic.sha256(folder / "weights.safetensors"),
        }
        atomic.write_text(folder / "bundle.json", _canonical(record | {"sha256": _digest(record)}))

    @classmethod
    def load(
        cls, path: str | Path, *, model: nn.Module | None = None, twin: nn.Module | None = None
    ) -> "Bundle":
        """Read a bundle, after its checksums have been verified.

        Args:
            path: The bundle's folder.
            model: The architecture of a classifier that is not registered; its weights are
                replaced by the bundle's.
            twin: The same for a twin whose encoder is of an architecture of its own.

        Raises:
            InputError: something is missing, damaged, from a newer version, or does not fit.
        """
        path = Path(path)
        record = read_record(path)
        weights = path / "weights.safetensors"
        if not weights.is_file():
            raise InputError(f"{path} has no weights.safetensors; restore it from a good copy.")
        if atomic.sha256(weights) != record["weights_sha256"]:
            raise InputError(
                f"{weights} is damaged: its checksum does not match; restore it from a good copy."
            )
        with torch.inference_mode(False):
            tensors, _ = read_safetensors(weights)
            bundle = cls._empty(record, model, twin)
            _fill(bundle.modules, tensors, path)
        return bundle

    @classmethod
    def _empty(
        cls, record: Mapping[str, Any], model: nn.Module | None, twin: nn.Module | None
    ) -> "Bundle":
        """The bundle of a record, before it has its weights."""
        classes = tuple(record["classes"])
        base = _architecture(record["architecture"], len(classes), model, "model")
        if record["form"] not in FORMS:
            raise unknown_name("form", record["form"], FORMS)
        classifier = FORMS[record["form"]](base)
        aligned = None
        if record["twin_architecture"] is not None:
            aligned = _twin(record, classifier, twin)
        known = record["preprocessing"]
        preprocessing = Preprocessing(known["size"], tuple(known["mean"]), tuple(known["std"]))
        objective, options = None, {}
        if record["objective"] is not None:
            name, options = record["objective"]["name"], record["objective"]["options"]
            if name not in OBJECTIVES:
                raise unknown_name("objective", name, OBJECTIVES)
            with torch.random.fork_rng(devices=[]):
                objective = OBJECTIVES[name](aligned or classifier, preprocessing, **options)
        return cls(
            classifier=classifier,
            twin=aligned,
            preprocessing=preprocessing,
            classes=classes,
            method=record["method"],
            recipe=record["recipe"],
            objective=objective,
            options=options,
            form=record["form"],
            architecture=record["architecture"],
            twin_architecture=record["twin_architecture"] or CUSTOM,
            provenance=record["provenance"],
        )


def read_record(path: str | Path) -> dict[str, Any]:
    """A bundle's ``bundle.json``, verified; the weights are not read.

    Raises:
        InputError: it is missing, damaged, or from a newer version.
    """
    path = Path(path)
    file = path / "bundle.json"
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a bundle.")
    if not file.is_file():
        raise InputError(f"{path} is no bundle: it has no bundle.json; give the bundle's folder.")
    damaged = InputError(f"{file} is damaged; restore it from a good copy.")
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise damaged
    try:
        text = file.read_bytes().decode("utf-8")
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged from error
    if not isinstance(record, dict) or not isinstance(record.get("schema"), int):
        raise damaged
    if record["schema"] > SCHEMA:
        raise InputError(
            f"{path} was written by a newer acclimate (bundle schema {record['schema']}, this one "
            f"reads up to {SCHEMA}); upgrade acclimate."
        )
    claimed = record.pop("sha256", None)
    if claimed != _digest(record) or text != _canonical(record | {"sha256": claimed}):
        raise damaged
    return _upgraded(record)


def _upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """A record of schema 1, which knew CTA alone, in today's terms."""
    if record["schema"] > 1:
        return record
    objective = {"name": "contrastive", "options": record["objective"]}
    return record | {"recipe": "cta", "form": "plain", "objective": objective}


def _named(objective: Objective | None, options: dict[str, Any]) -> dict[str, Any] | None:
    if objective is None:
        return None
    names = {kind: name for name, kind in OBJECTIVES.items()}
    if type(objective) not in names:
        raise InputError(
            f"{type(objective).__name__} is no registered objective, so it could not be loaded "
            f"again; put it into acclimate.objectives.OBJECTIVES under a name."
        )
    return {"name": names[type(objective)], "options": options}


def _architecture(name: str, classes: int, given: nn.Module | None, argument: str) -> Classifier:
    if given is not None:
        return split(given)
    if name == CUSTOM:
        raise InputError(
            f"this bundle's classifier is no registered architecture; give the network itself: "
            f"Bundle.load(path, {argument}=net)."
        )
    return split(build(name, classes=classes))


def _twin(record: Mapping[str, Any], classifier: Classifier, given: nn.Module | None) -> Classifier:
    same = record["twin_architecture"] == record["architecture"] and given is None
    base = classifier
    if not same:
        base = _architecture(record["twin_architecture"], len(record["classes"]), given, "twin")
    return projected(base, classifier.head)


def _fill(modules: nn.ModuleDict, tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        modules.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(
            f"the weights in {path} do not fit its architecture ({reason}); give the network that "
            f"they were made with."
        ) from error
    modules.eval().requires_grad_(False)


def _canonical(record: Mapping[str, Any]) -> str:
    """The only text that stands for a record, so that every changed byte shows."""
    return json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(record).encode()).hexdigest()
