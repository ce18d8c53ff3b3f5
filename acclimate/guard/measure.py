"""Measure a guard's calibration on source images: no label, and no corruption that is reported."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.backbones.batch_norm import batch_norms
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.guard.calibration import Answered, calibrated
from acclimate.preprocessing import check_images
from acclimate.randomness import key, permutation
from acclimate.runtime.precision import usual_defaults
from acclimate.source.held_out import CLEAN, SHIFTS, corrupted
from acclimate.source.loop import Run

IMAGES = 512
"""The most source images that are used."""
FEWEST = 32
"""From fewer images nothing is measured."""
BATCH = 128
"""Shuffled images that come together."""
SEVERITIES, HARD = (1, 2, 3, 4, 5), (2, 5)
"""Severities of the images that come shuffled, and of those in orders that harm."""
ALONE = 64
"""Images that come one by one."""
_PLAIN = {"classifier": ("ptbn", "tent"), "twin": ("aligned-bn", "aligned")}
"""Rows that stand for all methods of a model: with batch norm, and without."""


@dataclass(frozen=True)
class _Set:
    """Source images under a stand-in for a shift, in an order."""

    shift: str
    severity: int
    hard: bool
    order: Tensor
    """Indices of the images."""
    batch: int


@usual_defaults()
def measure_guard(
    bundle: Bundle, images: UInt8[Tensor, "n channels h w"], run: Run | None = None
) -> Bundle:
    """A bundle with the calibration of a guard for each of its models.

    The images come clean and under the benchmark's four extra corruptions: shuffled; sorted by what
    the classifier answers for the clean images; and one by one. The mean probabilities that the
    frozen and the adapted models give to the clean image stand for the truth. A method's own steps
    are not needed: batch statistics alone stand for all methods of a model.

    ```python
    bundle = measure_guard(Bundle.load("bundle"), images)
    bundle.save("guarded")
    ```

    Args:
        bundle: Left as it is.
        images: Unlabelled training images of the source, uint8, in any order.
        run: Device, memory and progress.

    Returns:
        The bundle with statistics ``classifier.guard.*`` and, if it has a twin, ``twin.guard.*``.

    Raises:
        InputError: these are no images that the model takes, fewer than 32, or of more than three
            channels, which cannot be corrupted.
    """
    run = run or Run()
    check_images(images, bundle.preprocessing.channels)
    if len(images) < FEWEST or images.shape[1] not in (1, 3):
        raise InputError(
            f"a guard is calibrated on at least {FEWEST} grey or RGB images, not "
            f"{len(images)} of {images.shape[1]} channels; give more of them, or use no guard."
        )
    images = images[permutation(key(0, "guard"), len(images))[:IMAGES]]
    frozen = _adapter(bundle, "source", run)
    adapters = {model: _adapter(bundle, name, run) for model, name in _rows(bundle)}
    clean = {name: _answers(each, images, BATCH) for name, each in adapters.items()}
    own = _answers(frozen, images, BATCH)
    adapted = torch.stack([each.softmax(1) for each in clean.values()]).mean(0)
    truth = own.softmax(1).lerp(adapted, 0.5)  # neither side outvotes the other
    sets = list(_sets(own.argmax(1), bundle))
    found: dict[str, list[Answered]] = {model: [] for model in adapters}
    for done, each in enumerate(sets, 1):
        shown = corrupted(images, each.shift, each.severity)[each.order]
        frozen_answers = _answers(frozen, shown, BATCH)
        sizes = [len(part) for part in each.order.split(each.batch)]
        for model, adapter in adapters.items():
            adapted = _answers(adapter, shown, each.batch)
            found[model].append(
                Answered(each.shift, each.hard, frozen_answers, adapted, sizes, truth[each.order])
            )
        run.progress("calibration of the guard", done, len(sets), "")
    statistics = dict(bundle.statistics)
    for model, answered in found.items():
        statistics |= calibrated(answered).tensors(f"{model}.guard.")
    return replace(bundle, statistics=statistics)


def _rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The models that adapt, each with the row that stands for its methods."""
    for model, network in (("classifier", bundle.classifier), ("twin", bundle.twin)):
        if network is not None:
            with_norms, without = _PLAIN[model]
            yield model, with_norms if batch_norms(network.encoder) else without


def _adapter(bundle: Bundle, name: str, run: Run) -> Adapter:
    return Adapter(bundle, name, device=run.device, memory_limit=run.memory_limit)


def _sets(answers: Tensor, bundle: Bundle) -> Iterator[_Set]:
    """The sets, the clean images in random order first."""
    count = len(answers)
    shuffled = torch.arange(count)
    by_class = answers.argsort(stable=True)
    # Batches of about one class, with enough images for statistics.
    batch = min(max(count // len(bundle.classes), 16), BATCH)
    for hard, order, size, severities in (
        (False, shuffled, BATCH, SEVERITIES),
        (True, by_class, batch, HARD),
        (True, shuffled[:ALONE], 1, HARD),
    ):
        yield _Set(CLEAN, 0, hard, order, size)
        for name in SHIFTS:
            for severity in severities:
                yield _Set(name, severity, hard, order, size)


def _answers(adapter: Adapter, images: Tensor, batch: int) -> Float[Tensor, "n classes"]:
    """Logits of a new adapter for images that come in batches."""
    adapter.reset()
    return torch.cat([adapter(part).cpu() for part in images.split(batch)])
