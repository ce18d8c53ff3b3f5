"""Bundles: what training saves and deployment loads, a folder protected by checksums."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from acclimate.backbones import FORMS, Classifier, build, check_finite, in_float32, projected, split
from acclimate.backbones.batch_norm import Trust
from acclimate.backbones.rebuilt import (
    check_logits,
    load_weights,
    set_switches,
    some_logits,
    switches_of,
)
from acclimate.bundle_record import (
    SCHEMA,
    WEIGHTS,
    preprocessing_of,
    read_record,
    read_statistics,
    read_tensors,
    sealed,
    write_statistics,
)
from acclimate.errors import InputError, unknown_name
from acclimate.objectives import OBJECTIVES, Objective
from acclimate.preprocessing import Preprocessing
from acclimate.runtime.precision import usual_defaults
from acclimate.storage import atomic
from acclimate.storage.sealed import plain

CUSTOM = "custom"
"""Architecture name of a network that is not registered; loading needs the network itself."""
_BUILT = ("acclimate:", "torchvision:", "timm:", "hf:", "openclip:")


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
    trust: dict[str, Trust] = field(default_factory=dict)
    """How far ``"classifier"`` and ``"twin"`` do well to trust a batch's statistics, as measured on
    source images; empty where it was not measured."""
    statistics: dict[str, Tensor] = field(default_factory=dict)
    """Statistics of source images that methods need, by ``MODEL.KIND.NAME``, as
    `acclimate.measure` finds them; empty where nothing was measured."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How the bundle was made: seed, settings, data, versions."""

    def __repr__(self) -> str:
        channels, height, width = self._shape
        twin = ", with a twin" if self.twin else ""
        return (
            f"Bundle({self.architecture}{twin}, {len(self.classes)} classes, images of "
            f"{channels} × {height} × {width}, method {self.method!r})"
        )

    @property
    def modules(self) -> nn.ModuleDict:
        """All modules with weights: the classifier and, where they exist, twin and objective."""
        named = {"classifier": self.classifier, "twin": self.twin, "objective": self.objective}
        return nn.ModuleDict({name: part for name, part in named.items() if part is not None})

    @property
    def _models(self) -> dict[str, Classifier]:
        return {"classifier": self.classifier} | ({"twin": self.twin} if self.twin else {})

    @property
    def _shape(self) -> tuple[int, int, int]:
        preprocessing = self.preprocessing
        return preprocessing.channels, preprocessing.height, preprocessing.width

    def save(self, path: str | Path) -> None:
        """Write the bundle as a folder, atomically: the folder is complete or does not exist.

        Raises:
            InputError: the path exists already or cannot be written, the objective is not
                registered, or weights are NaN or infinite.
        """
        path = Path(path)
        if path.exists():
            raise InputError(f"{path} exists already; choose another path or remove it first.")
        for model in self._models.values():
            check_finite(model)
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
        atomic.write_atomically(folder / WEIGHTS, lambda temporary: save_file(tensors, temporary))
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
            "trust": {model: asdict(trust) for model, trust in self.trust.items()},
            "provenance": self.provenance,
            "switches": switches_of(self.modules),
            "logits": some_logits(self._models, self._shape),
            "weights_sha256": atomic.sha256(folder / WEIGHTS),
        }
        record |= write_statistics(folder, self.statistics)
        atomic.write_text(folder / "bundle.json", sealed(record))
        _check_loads(record, folder, self.classifier.num_classes)

    @classmethod
    @usual_defaults()
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
        with torch.inference_mode(False):
            tensors = read_tensors(path, record)
            bundle = cls._without_weights(record, model, twin)
            bundle.statistics = read_statistics(path, record)
            load_weights(bundle.modules, tensors, path)
            set_switches(bundle.modules, record.get("switches") or {})
            check_logits(bundle._models, record.get("logits") or {}, bundle._shape)
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
        preprocessing = preprocessing_of(record)
        objective, options = None, {}
        if record["objective"] is not None:
            options = record["objective"]["options"]
            objective = _objective(record["objective"], aligned or classifier, preprocessing)
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
            trust={n: Trust(**trust) for n, trust in (record.get("trust") or {}).items()},
            provenance=record["provenance"],
        )


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


def _objective(
    record: Mapping[str, Any], model: Classifier, preprocessing: Preprocessing
) -> Objective:
    """The objective of a record, with random weights."""
    name = record["name"]
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    try:
        with torch.random.fork_rng(devices=[]):
            return OBJECTIVES[name](model, preprocessing, **record["options"])
    except InputError:
        raise
    # Options may be anything: whatever goes wrong with them, the record is not of a bundle.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"the bundle's objective {name} cannot be built with its options ({reason}); restore "
            "the bundle from a good copy."
        ) from error


def _architecture(name: str, classes: int, given: nn.Module | None, argument: str) -> Classifier:
    if given is not None:
        return in_float32(split(given))
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


def _check_loads(record: Mapping[str, Any], folder: Path, outputs: int) -> None:
    """Refuse to save what could not be loaded again."""
    try:
        if len(record["classes"]) != outputs:
            raise InputError(f"{outputs} outputs have {len(record['classes'])} class names.")
        read_record(folder)
        names = filter(None, (record["architecture"], record["twin_architecture"]))
        if all(name.startswith(_BUILT) for name in names):
            with torch.random.fork_rng(devices=[]):
                Bundle.load(folder)
    except InputError as error:
        raise InputError(f"the bundle is not saved, because it would not load: {error}") from error
