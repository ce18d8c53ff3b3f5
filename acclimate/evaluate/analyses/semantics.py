"""Do classes stay apart while a model adapts, and do they stay where the classifier knew them?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from sklearn.metrics import davies_bouldin_score
from torch import Tensor, nn

from acclimate.adapt import Adapter, model_of
from acclimate.backbones import Classifier
from acclimate.bundle import Bundle
from acclimate.data import LabelledImages, Shift, streams
from acclimate.errors import InputError
from acclimate.methods import AdapterSettings, method
from acclimate.methods.changes import changed
from acclimate.objectives import Contrastive

_BATCH = 256
"""Batch size for images that are only looked at."""


@dataclass(frozen=True)
class Look:
    """Settings of a look at an adapter before the first step on each batch and after the last."""

    steps: int = 20
    """Gradient steps for each batch."""
    batch: int = 128
    """Images that arrive together."""
    seed: int = 0
    """Seed of order, corruption and views."""
    batch_statistics: bool = False
    """Whether batch norm uses the batch's own statistics, whatever the method does."""
    memory_limit: str | None = None
    """The most memory that the process may hold; see `Adapter`."""

    def settings_for(self, published: AdapterSettings) -> AdapterSettings:
        """The settings of a method while it is looked at, in float32."""
        changes = {"steps": self.steps, "precision": "fp32"}
        if self.batch_statistics:
            changes["normalisation"] = "batch"
        return changed(replace(published, seed=self.seed), changes)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of images in the two parts of a model."""

    encoder: Float[np.ndarray, "n d"]
    projector: Float[np.ndarray, "n e"]
    """Output of a twin's π, which the head reads, or of the objective's projector."""
    labels: Int64[np.ndarray, " n"]


@dataclass(frozen=True)
class Semantics:
    """One part of a model on one corrupted set (CTA, Table 6)."""

    method: str
    corruption: str
    severity: float
    steps: int
    """Gradient steps on each batch before the features were taken."""
    part: str
    """``"encoder"`` or ``"projector"``."""
    davies_bouldin: float
    """Davies–Bouldin index of the features by true class; lower is further apart."""
    drift: float
    """Sum over classes of the Euclidean distance between the median of the features that the head
    reads and the median of the classifier's own on source images; nan for the other part."""


def semantics(
    bundle: Bundle,
    name: str,
    data: LabelledImages,
    source: LabelledImages,
    shifts: Sequence[Shift],
    look: Look,
) -> Iterator[Semantics]:
    """Look at both parts of a model on each corruption, before adapting and after some steps.

    Labels are used for looking alone: the adapter does not see them.

    Args:
        bundle: What adapts.
        name: A method that resets with each batch, with a twin or a projector.
        data: Test images.
        source: Clean images that the classifier knows.
        shifts: What happens to the test images.
        look: How.

    Yields:
        A row for each shift, number of steps (0 and all) and part.

    Raises:
        InputError: the method or the bundle does not fit.
    """
    classifier = bundle.classifier.eval()
    known = medians(_encoded(bundle, classifier, source.images), source.labels.numpy())
    part_read = "projector" if _projector_of(model_of(bundle, name)) else "encoder"
    for shift in shifts:
        found = features(bundle, name, data, shift, look)
        for count, of_both in zip((0, look.steps), found):
            for part in ("encoder", "projector"):
                values = getattr(of_both, part)
                read = part == part_read
                yield Semantics(
                    name,
                    shift.corruption,
                    shift.severity,
                    count,
                    part,
                    float(davies_bouldin_score(values, of_both.labels)),
                    drift(medians(values, of_both.labels), known) if read else float("nan"),
                )


def features(
    bundle: Bundle,
    name: str,
    data: LabelledImages,
    shift: Shift,
    look: Look,
) -> tuple[Features, Features]:
    """The features of corrupted images before the first step on their batch, and after the last.

    They are those from which the adapter answers then, in float32.

    Raises:
        InputError: the method or the bundle does not fit.
    """
    published = method(name).settings
    if not published.reset.always or not published.steps or look.steps < 1:
        raise InputError(f"{name} does not learn from each batch anew; choose cta, cta-paper or y.")
    adapter = Adapter(bundle, name, look.settings_for(published), memory_limit=look.memory_limit)
    labels, before, after = [], [], []
    for arrived in streams.shuffled(data.images, shift, batch=look.batch, seed=look.seed):
        with _looking(adapter) as seen:
            adapter.trace(arrived.images)
        # What went with a small batch, to make it large enough, is no answer.
        fresh = len(arrived.numbers)
        before.append(tuple(part[-fresh:] for part in seen[0]))
        after.append(tuple(part[-fresh:] for part in seen[-1]))
        labels.append(data.labels[arrived.numbers])
    classes = torch.cat(labels).numpy()
    return _joined(before, classes), _joined(after, classes)


def _joined(parts: Sequence[Sequence[Tensor]], labels: Int64[np.ndarray, " n"]) -> Features:
    encoded, projected = (torch.cat(part).cpu().numpy() for part in zip(*parts))
    return Features(encoded, projected, labels)


@contextmanager
def _looking(adapter: Adapter) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within it, what encoder and projector give whenever the adapter answers."""
    seen: list[tuple[Tensor, Tensor]] = []
    encoder, projector = adapter.model.encoder, _projector_of(adapter.model)
    if projector:
        encoder = encoder.get_submodule("encoder")
    elif isinstance(adapter.objective, Contrastive):
        projector = adapter.objective.projector
    else:
        raise InputError("this method has no projector; choose cta, cta-paper, cta-c or y.")

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not torch.is_grad_enabled():  # an answer, not a step
            seen.append((output, projector(output)))

    handle = encoder.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def medians(
    features: Float[np.ndarray, "n d"], labels: Int64[np.ndarray, " n"]
) -> dict[int, Float[np.ndarray, " d"]]:
    """The median of each class's features, dimension by dimension."""
    return {int(name): np.median(features[labels == name], axis=0) for name in np.unique(labels)}


def drift(
    here: dict[int, Float[np.ndarray, " d"]], there: dict[int, Float[np.ndarray, " d"]]
) -> float:
    """Sum of the Euclidean distances of classes that are in both."""
    return float(sum(np.linalg.norm(here[name] - there[name]) for name in here.keys() & there))


def _projector_of(model: Classifier) -> nn.Module | None:
    """π, in a model that is h∘π∘g."""
    projector = getattr(model.encoder, "projector", None)
    return projector if isinstance(projector, nn.Module) else None


@torch.no_grad()
def _encoded(
    bundle: Bundle, model: Classifier, images: UInt8[Tensor, "n 3 h w"]
) -> Float[np.ndarray, "n d"]:
    preprocessing = bundle.preprocessing
    parts = [
        model.encoder(preprocessing.normalize(preprocessing.unit(some))).float()
        for some in images.split(_BATCH)
    ]
    return torch.cat(parts).numpy()
