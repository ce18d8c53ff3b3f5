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
from acclimate.guard.looks import looks_as_shown
from acclimate.preprocessing import check_images
from acclimate.randomness import key, permutation
from acclimate.runtime.precision import usual_defaults
from acclimate.source.held_out import CLEAN, SHIFTS, corrupted, enough
from acclimate.source.loop import Run
from acclimate.source.stand_ins import STAND_INS, stand_in

FEWEST = 32
"""From fewer images nothing is measured."""
BATCH = 128
"""Shuffled images that come together."""
SEVERITIES, HARD = (1, 2, 3, 4, 5), (2, 5)
"""Severities of corruptions for images that come shuffled, and for orders that harm."""
ALONE = 64
"""Images that come one by one."""
_ROWS = {"classifier": ("ptbn", "tent"), "twin": ("aligned-bn", "acclimate")}
"""Rows that stand for all methods of a model: with batch norm, and without. There, steps are what
harms, and no other row would show the curves a model that steps have made certain and wrong."""


@dataclass(frozen=True)
class _Set:
    """Source images under a stand-in for a shift, in an order."""

    shift: str
    severity: int
    hard: bool
    order: Tensor
    """Indices of the images."""
    batch: int

    @property
    def count(self) -> int:
        """The images up to the last one that is taken."""
        return int(self.order.amax()) + 1


@usual_defaults()
def measure_guard(
    bundle: Bundle,
    images: UInt8[Tensor, "n channels h w"],
    run: Run | None = None,
    *,
    count: int | None = None,
) -> Bundle:
    """A bundle with the calibration of a guard for each of its models.

    The images come clean and under the benchmark's four extra corruptions: shuffled; sorted by what
    the classifier answers for the clean images; and one by one. Half of them come under changes
    that are no corruptions, see `acclimate.source.stand_ins`: these count where a stream looks so.
    The mean probabilities that the frozen and the adapted models give to the clean image stand for
    the truth. With batch norm, batch statistics without steps stand for all methods of a model;
    without, `tent` for those of the classifier and `acclimate` for those of the twin.

    ```python
    bundle = measure_guard(Bundle.load("bundle"), images)
    bundle.save("guarded")
    ```

    Args:
        bundle: Left as it is.
        images: Unlabelled training images of the source, uint8, in any order.
        run: Device, memory and progress.
        count: The most images that are used, each with about 45 forward passes of each model; None
            takes 512, and 128 where they or the network's have more than 64² pixels.

    Returns:
        The bundle with statistics ``classifier.guard.*`` and, if it has a twin, ``twin.guard.*``.

    Raises:
        InputError: these are no images that the model takes, fewer than 32, or of more than three
            channels, which cannot be corrupted.
    """
    run = run or Run()
    check_images(images, bundle.preprocessing.channels)
    count = enough(images, bundle.preprocessing) if count is None else count
    images = images[permutation(key(0, "guard"), len(images))[:count]]
    if not can_be_measured(images):
        raise InputError(
            f"a guard is calibrated on at least {FEWEST} grey or RGB images, not "
            f"{len(images)} of {images.shape[1]} channels; give more of them, or use no guard."
        )
    statistics = dict(bundle.statistics)
    for model, answered in _answered(bundle, images, run).items():
        statistics |= calibrated(answered).tensors(f"{model}.guard.")
    return replace(bundle, statistics=statistics)


def can_be_measured(images: UInt8[Tensor, "n channels h w"]) -> bool:
    """Whether a guard can be calibrated on images: they are enough, and grey or RGB."""
    return len(images) >= FEWEST and images.shape[1] in (1, 3)


def _answered(
    bundle: Bundle, images: UInt8[Tensor, "n channels h w"], run: Run
) -> dict[str, list[Answered]]:
    """Each model's answers for all sets, beside the frozen classifier's."""
    frozen = _adapter(bundle, "source", run)
    adapters = {model: _adapter(bundle, name, run) for model, name in _rows(bundle)}
    clean = {name: _answers(each, images, BATCH) for name, each in adapters.items()}
    own = _answers(frozen, images, BATCH)
    adapted = torch.stack([each.softmax(1) for each in clean.values()]).mean(0)
    truth = own.softmax(1).lerp(adapted, 0.5)  # neither side outvotes the other
    sets = list(_sets(own.argmax(1), bundle))
    found: dict[str, list[Answered]] = {model: [] for model in adapters}
    for done, each in enumerate(sets, 1):
        shown = _shown(images[: each.count], each)[each.order]
        frozen_answers = _answers(frozen, shown, BATCH)
        looked = looks_as_shown(shown, bundle.preprocessing)
        sizes = [len(part) for part in each.order.split(each.batch)]
        kind = each.shift, each.hard, each.shift in STAND_INS
        for model, adapter in adapters.items():
            adapted = _answers(adapter, shown, each.batch)
            answers = frozen_answers, adapted, sizes, truth[each.order]
            found[model].append(Answered(*kind, looked, *answers))
        run.progress("calibration of the guard", done, len(sets), "")
    return found


def _rows(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """The models that adapt, each with the row that stands for its methods."""
    for model, network in (("classifier", bundle.classifier), ("twin", bundle.twin)):
        if network is not None:
            with_norms, without = _ROWS[model]
            yield model, with_norms if batch_norms(network.encoder) else without


def _adapter(bundle: Bundle, name: str, run: Run) -> Adapter:
    return Adapter(bundle, name, device=run.device, memory_limit=run.memory_limit)


def _sets(answers: Tensor, bundle: Bundle) -> Iterator[_Set]:
    """The sets, the clean images in random order first."""
    shifts = {CLEAN: ((0,), (0,))} | dict.fromkeys(SHIFTS, (SEVERITIES, HARD))
    shifts |= {name: (tuple(made), (max(made),)) for name, made in STAND_INS.items()}
    for name, (shuffled, hard) in shifts.items():
        count = len(answers)
        if name in STAND_INS:
            count = max(count // 2, min(count, FEWEST))
        every = torch.arange(count)
        by_class = answers[:count].argsort(stable=True)
        # Batches of about one class, with enough images for statistics.
        batch = min(max(count // len(bundle.classes), 16), BATCH)
        alone = every[: ALONE * count // len(answers)]
        yield from (_Set(name, s, False, every, BATCH) for s in shuffled)
        for severity in hard:
            yield _Set(name, severity, True, by_class, batch)
            yield _Set(name, severity, True, alone, 1)


def _shown(images: Tensor, wanted: _Set) -> Tensor:
    """Images under the shift of a set."""
    made = stand_in if wanted.shift in STAND_INS else corrupted
    return made(images, wanted.shift, wanted.severity)


def _answers(adapter: Adapter, images: Tensor, batch: int) -> Float[Tensor, "n classes"]:
    """Logits of a new adapter for images that come in batches."""
    adapter.reset()
    return torch.cat([adapter(part).cpu() for part in images.split(batch)])
