"""The methods that advice chooses among."""

from collections.abc import Sequence
from dataclasses import dataclass

from acclimate.adapt import Adapter
from acclimate.backbones.batch_norm import batch_norms
from acclimate.bundle import Bundle
from acclimate.errors import InputError
from acclimate.evaluate.variant import Variant
from acclimate.guard.budget import fewest_images
from acclimate.source.loop import Run


@dataclass(frozen=True)
class Candidate:
    """A way to deploy a bundle."""

    variant: Variant
    """The method and its changes."""
    batch: int
    """Images that come together."""

    def __str__(self) -> str:
        return f"{self.variant}, batches of {self.batch}"


def usual_methods(bundle: Bundle) -> list[str]:
    """A short list of variants for a bundle: statistics, steps of few parameters, and its twin.

    Networks without batch norm have other ones: statistics of the batch are nothing to them, and
    steps at the rates that were chosen for batch norm ruin them.

    ```python
    usual_methods(bundle)  # ["bn-adapt", "tent", "roid"]
    ```
    """
    twin = bundle.twin is not None
    if batch_norms(bundle.classifier.encoder):
        ours = ["aligned-bn", "acclimate", "acclimate:reset=batch"] if twin else []
        return ["bn-adapt" if bundle.trust else "ptbn", "tent", "roid", *ours]
    ours = ["aligned", "cta", "acclimate"] if twin and bundle.recipe == "cta" else []
    shift = ["foa:steps=0"] if any(".moments." in name for name in bundle.statistics) else []
    return ["tent", *shift, *ours]


def candidates(
    bundle: Bundle, batches: Sequence[int], methods: Sequence[str], run: Run
) -> tuple[dict[Candidate, Adapter], list[str]]:
    """Adapters of all that a bundle can run, and why the others are left out.

    Args:
        bundle: The bundle.
        batches: Sizes of batches that the deployment can have.
        methods: Names or variants; none takes `usual_methods`.
        run: Device and memory.

    Raises:
        InputError: an unknown method or setting that was asked for, or no size of batches.
    """
    if not batches or min(batches) < 1:
        raise InputError("a batch has at least 1 image; give --batch 1 or more.")
    found: dict[Candidate, Adapter] = {}
    left_out: dict[str, None] = {}
    for text in methods or usual_methods(bundle):
        variant = Variant.parse(text)
        settings = variant.settings
        try:
            for batch in dict.fromkeys(batches):
                adapter = Adapter(
                    bundle,
                    variant.method,
                    settings,
                    device=run.device,
                    memory_limit=run.memory_limit,
                )
                if batch < fewest_images(adapter):
                    reason = f"it normalises by the batch alone, to which {batch} images say little"
                    left_out[f"{variant}, batches of {batch}: {reason}"] = None
                else:
                    found[Candidate(variant, batch)] = adapter
        except InputError as error:
            left_out[f"{variant}: {error}"] = None
    return found, [*left_out]
