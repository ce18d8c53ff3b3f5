"""Statistics of source images that methods need at deployment: measured without labels."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from acclimate.backbones import Classifier, block_names, duplicate
from acclimate.backbones.batch_norm import Control
from acclimate.backbones.fitting import fitted
from acclimate.backbones.group_norm import with_safe_group_norms
from acclimate.backbones.recompute import Thrift
from acclimate.bundle import Bundle
from acclimate.methods import METHODS
from acclimate.objectives.discrepancy import Tokens
from acclimate.parts.normalisation import BatchStatistics, replace_batch_norms
from acclimate.parts.update import norm_parameters
from acclimate.preprocessing import check_images
from acclimate.randomness import key, permutation
from acclimate.runtime.budget import for_passes, parse_bytes
from acclimate.runtime.device import find_device
from acclimate.runtime.precision import at_least_float32, autocast, usual_defaults
from acclimate.source.images import SourceImages
from acclimate.source.loop import Run
from acclimate.source.prototypes import prototypes

Named = dict[str, Tensor]
Measure = Callable[[Classifier, SourceImages, Run], Named]
"""A function of a model, source images and the run to named tensors; none where it cannot be."""

FISHER_IMAGES, FISHER_BATCH = 2_000, 64
"""EATA's number of images, and images of a batch whose mean gradient is squared."""
MOMENT_IMAGES, MOMENT_BATCH = 2_000, 64
"""Images whose activations give the moments, and images of a pass."""
_log = logging.getLogger(__name__)


@usual_defaults()
def measure(
    bundle: Bundle, images: UInt8[Tensor, "n channels h w"], run: Run | None = None
) -> Bundle:
    """A bundle with the statistics of source images that methods need.

    Bundles that were made from images have them already. Bundles of older versions, and those of
    ``acclimate.wrap`` without images, do not.

    ```python
    bundle = acclimate.measure(Bundle.load("bundle"), images)
    bundle.save("measured")
    ```

    Args:
        bundle: Left as it is.
        images: Unlabelled training images of the source, uint8. Not the images that are to be
            answered for, nor clean copies of them.
        run: Precision, device, memory and progress.

    Raises:
        InputError: these are no images that the model takes.
    """
    run = run or Run()
    check_images(images, bundle.preprocessing.channels)
    models = {"classifier": bundle.classifier, "twin": bundle.twin}
    source = SourceImages(images, bundle.preprocessing)
    device = find_device(run.device)
    copies = {name: duplicate(model).to(device) for name, model in models.items() if model}
    found = measure_statistics(copies, source, run)
    kinds = {_kind(name) for name in found}
    # What cannot be measured of these images may have been of others.
    kept = {name: value for name, value in bundle.statistics.items() if _kind(name) not in kinds}
    return replace(bundle, statistics=kept | found)


def _kind(name: str) -> tuple[str, ...]:
    """Model and kind of a statistic."""
    return tuple(name.split(".", 2)[:2])


def measure_statistics(models: Mapping[str, Classifier], source: SourceImages, run: Run) -> Named:
    """What the rows of `METHODS` need of these models: each names its own.

    Args:
        models: ``classifier`` and, where there is one, ``twin``, each on its device.
        source: Source images; labels are not used.
        run: Precision, memory and progress.

    Returns:
        Tensors on the CPU as `Bundle.statistics` has them, by ``MODEL.KIND.NAME``.
    """
    wanted = {(r.model, k) for r in METHODS.values() for k in r.settings.source_statistics}
    return {
        f"{model}.{kind}.{name}": tensor.detach().cpu()
        for model, kind in sorted(wanted)
        if model in models
        for name, tensor in SOURCE_STATISTICS[kind](models[model], source, run).items()
    }


def fisher_weights(model: Classifier, source: SourceImages, run: Run) -> Named:
    """How much the loss depends on each scale and shift of the encoder's normalisation layers.

    F = mean over batches of g², where g is the gradient of the batch's mean cross entropy with the
    model's own answers as labels (Niu et al. 2022, *Efficient test-time model adaptation without
    forgetting*). As in EATA's release the square is taken after the mean over a batch of 64, so F
    depends on that number, and the published β belongs to it. The images are ours: at most 2,000
    training images of the source in a fixed random order, where the release takes validation
    images. Ours, too: an incomplete last batch is left out. Batch norm uses the batch's statistics,
    as EATA does at deployment.

    Args:
        model: h∘f, on its device; left as it is.
        source: Source images; labels are not used.
        run: Precision, memory and progress.

    Returns:
        F by name of the parameter. Nothing for a model without such layers, from a single image,
        where a batch does not fit into the memory, or where a gradient is not finite.
    """
    model = with_safe_group_norms(duplicate(model).eval().requires_grad_(False))
    replace_batch_norms(model.encoder, Control(learning=True), BatchStatistics())
    moving = norm_parameters(model.encoder)
    images = source.sample(FISHER_IMAGES).images
    if not moving or len(images) < 2:
        return {}
    for parameter in moving.values():
        parameter.requires_grad_()
    device = next(model.parameters()).device
    batch = min(FISHER_BATCH, len(images))

    def squares(part: UInt8[Tensor, "batch 3 h w"]) -> list[Tensor]:
        with autocast(device, run.precision):
            logits = model(source.preprocessing(part.to(device)))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = cross_entropy(logits, logits.argmax(1))
        found = torch.autograd.grad(loss, [*moving.values()], materialize_grads=True)
        return [gradient**2 for gradient in found]

    thrift = _thrift(model.encoder, lambda count: squares(images[:count]), batch, device, run)
    if thrift is None:
        _log.info("Fisher weights are not measured: a batch of 64 does not fit into the memory")
        return {}
    with thrift.applied():
        total = _mean_over_batches(squares, images, batch, run)
    if not all(value.isfinite().all() for value in total):
        return {}
    return {f"encoder.{name}": value for name, value in zip(moving, total)}


def _mean_over_batches(
    function: Callable[[Tensor], list[Tensor]], images: Tensor, batch: int, run: Run
) -> list[Float[Tensor, "..."]]:
    """The mean of a function's tensors over the whole batches of images in random order."""
    order = permutation(key(0, "source statistics"), len(images))
    parts = order[: len(images) // batch * batch].split(batch)
    total: list[Tensor] = []
    for done, part in enumerate(parts, 1):
        found = function(images[part])
        total = [before + more for before, more in zip(total, found)] if total else found
        run.progress("Fisher weights of source images", done, len(parts), "")
    return [each / len(parts) for each in total]


def _thrift(
    encoder: nn.Module,
    passes: Callable[[int], object],
    batch: int,
    device: torch.device,
    run: Run,
) -> Thrift | None:
    """How passes with gradients of a batch fit into the memory; None if they do not."""
    few = min(2, batch)
    limit = None if run.memory_limit is None else parse_bytes(run.memory_limit)
    budget = for_passes(limit, device)
    thrift, need = fitted(passes, encoder, few=few, images=batch, budget=budget, mixes=True)
    return thrift if need.of(batch) <= budget else None


def token_moments(model: Classifier, source: SourceImages, run: Run) -> Named:
    """Mean and standard deviation of what a transformer's blocks give on to the next.

    Niu et al. 2024, *Test-time model adaptation with only forward passes* (FOA), § 3.1. At most
    2,000 training images of the source; the release takes the validation images.

    Args:
        model: h∘f, on its device; left as it is.
        source: Source images; labels are not used.
        run: Precision and progress.

    Returns:
        ``mean.LAYER`` and ``std.LAYER``, unbiased; of the last, of the features. Nothing for a
        network that is no plain transformer, from a single image, or where one is not finite.
    """
    model = duplicate(model).eval().requires_grad_(False)
    images = source.sample(MOMENT_IMAGES).images
    size = source.preprocessing.size
    if len(images) < 2 or not block_names(model.encoder, size):
        return {}
    tokens, device = Tokens(model, size), next(model.parameters()).device
    parts = images.split(MOMENT_BATCH)
    found = []
    for done, part in enumerate(parts, 1):
        with torch.no_grad(), autocast(device, run.precision):
            activations = tokens.activations(model, source.preprocessing(part.to(device)))
        found.append([at_least_float32(each) for each in activations])
        run.progress("moments of source images", done, len(parts), "")
    named: Named = {}
    for layer, values in enumerate(zip(*found)):
        named[f"std.{layer}"], named[f"mean.{layer}"] = torch.std_mean(torch.cat(values), dim=0)
    return named if all(value.isfinite().all() for value in named.values()) else {}


SOURCE_STATISTICS: dict[str, Measure] = {
    "fisher": fisher_weights,
    "prototypes": prototypes,
    "moments": token_moments,
}
"""The function that measures each kind. A part names the kinds that it needs in
``source_statistics``, and is given each as a keyword of its ``build``."""
