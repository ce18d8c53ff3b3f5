"""Bundles: what training saves and deployment loads, a folder protected by checksums."""

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
"""Architecture name of a network that is not registered; loading needs the network itself."""
_MAX_JSON_BYTES = 16 * 2**20


@dataclass
class Bundle:
    """A trained classifier with everything that adapting it at deployment needs.

    ```python
    bundle = acclimate.align(net, images)
    bundle.save("bundle")
    bundle = Bundle.load("bundle", model=net)  # registered architectures need no model
    adapter = acclimate.Adapter(bundle)
    ```
    """

    classifier: Classifier
    """The source classifier h∘f, not adapted."""
    twin: Classifier | None
    """The aligned twin h'∘(π∘g), or None. Its encoder is a ``Sequential`` of ``encoder`` and
    ``projector``."""
    preprocessing: Preprocessing
    """Resizing and normalisation of the classifier's input."""
    classes: tuple[str, ...]
    """Name of each output of the head."""
    method: str = "cta"
    """Default method of adapters, a name of `acclimate.methods.METHODS`."""
    recipe: str = "cta"
    """Recipe that the bundle was trained with, a name of `acclimate.methods.RECIPES`."""
    objective: Objective | None = None
    """Self-supervised objective that was trained with the model, including its own modules."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments that the objective was constructed with, as JSON values."""
    form: str = "plain"
    """How the classifier was built from its architecture, a name of `acclimate.backbones.FORMS`."""
    architecture: str = CUSTOM
    """Registered name of the classifier's architecture."""
    twin_architecture: str = CUSTOM
    """Registered name of the architecture of the twin's encoder g."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How the bundle was made: seed, settings, data, versions."""

    @property
    def modules(self) -> nn.ModuleDict:
        """All modules with weights: the classifier and, where they exist, twin and objective."""
        named = {"classifier": self.classifier, "twin": self.twin, "objective": self.objective}
        return nn.ModuleDict({name: part for name, part in named.items() if part is not None})

    def save(self, path: str | Path) -> None:
        """Write the bundle as a folder, atomically: the folder is complete or does not exist.

        Raises:
            InputError: the path exists already or cannot be written, or the objective is not
                registered.
        """
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists already; choose another path or remove it first.")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            temporary.mkdir(parents=True)
            self._write(temporary)
            atomic.sync(temporary)
            temporary.rename(path)
            atomic.sync(path.parent)
        except OSError as error:
            raise atomic.cannot_write(path, error) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        tensors = plain(self.modules.state_dict())
        atomic.write_atomically(
            folder / "weights.safetensors", lambda temporary: save_file(tensors, temporary)
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
            "objective": _objective_record(self.objective, self.options),
            "provenance": self.provenance,
            "weights_sha256": atomic.sha256(folder / "weights.safetensors"),
        }
        atomic.write_text(folder / "bundle.json", _canonical(record | {"sha256": _digest(record)}))

    @classmethod
    def load(
        cls, path: str | Path, *, model: nn.Module | None = None, twin: nn.Module | None = None
    ) -> "Bundle":
        """Load a bundle and verify its checksums.

        ```python
        bundle = Bundle.load("bundle")
        bundle = Bundle.load("my-bundle", model=MyNetwork())  # a network that is not registered
        ```

        Args:
            path: The bundle's folder.
            model: The classifier's network, if its architecture is not registered. The bundle's
                weights replace the network's.
            twin: The twin's network, if its encoder has another architecture than the classifier
                and that is not registered.

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
            bundle = cls._without_weights(record, model, twin)
            _load_weights(bundle.modules, tensors, path)
        return bundle

    @classmethod
    def _without_weights(
        cls, record: Mapping[str, Any], model: nn.Module | None, twin: nn.Module | None
    ) -> "Bundle":
        """Build the bundle that a record describes; its weights are not loaded yet."""
        classes = tuple(record["classes"])
        base = _architecture(record["architecture"], len(classes), model, "model")
        if record["form"] not in FORMS:
            raise unknown_name("form", record["form"], FORMS)
        classifier = FORMS[record["form"]](base)
        aligned = None
        if record["twin_architecture"] is not None:
            aligned = _twin(record, classifier, twin)
        saved = record["preprocessing"]
        preprocessing = Preprocessing(saved["size"], tuple(saved["mean"]), tuple(saved["std"]))
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
    """Read and verify a bundle's ``bundle.json``, but not its weights.

    ```python
    read_record("bundle")["classes"]
    ```

    Raises:
        InputError: it is missing, damaged, or from a newer version.
    """
    path = Path(path)
    file = path / "bundle.json"
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a bundle.")
    if not file.is_file():
        raise InputError(f"{path} is no bundle: it has no bundle.json; give a bundle's folder.")
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
    """Convert a record of schema 1, which knew only CTA, to the current schema."""
    if record["schema"] > 1:
        return record
    objective = {"name": "contrastive", "options": record["objective"]}
    return record | {"recipe": "cta", "form": "plain", "objective": objective}


def _objective_record(objective: Objective | None, options: dict[str, Any]) -> dict | None:
    if objective is None:
        return None
    names = {kind: name for name, kind in OBJECTIVES.items()}
    if type(objective) not in names:
        raise InputError(
            f"{type(objective).__name__} is no registered objective, so the bundle could not be "
            f"loaded again; add it to acclimate.objectives.OBJECTIVES under a name."
        )
    return {"name": names[type(objective)], "options": options}


def _architecture(name: str, classes: int, given: nn.Module | None, argument: str) -> Classifier:
    if given is not None:
        return split(given)
    if name == CUSTOM:
        raise InputError(
            f"this bundle's {'twin' if argument == 'twin' else 'classifier'} has an architecture "
            f"that is not registered; give the network itself: Bundle.load(path, {argument}=net)."
        )
    return split(build(name, classes=classes))


def _twin(record: Mapping[str, Any], classifier: Classifier, given: nn.Module | None) -> Classifier:
    same = record["twin_architecture"] == record["architecture"] and given is None
    base = classifier
    if not same:
        base = _architecture(record["twin_architecture"], len(record["classes"]), given, "twin")
    return projected(base, classifier.head)


def _load_weights(modules: nn.ModuleDict, tensors: dict[str, torch.Tensor], path: Path) -> None:
    try:
        modules.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(
            f"the weights in {path} do not fit the network ({reason}); give a network of the "
            f"architecture that they were saved from."
        ) from error
    modules.eval().requires_grad_(False)


def _canonical(record: Mapping[str, Any]) -> str:
    """The canonical JSON text of a record. Any other text is treated as damage."""
    text = json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    # Names of folders that are no UTF-8 hold surrogates, which only JSON's escapes can carry.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(record).encode()).hexdigest()
