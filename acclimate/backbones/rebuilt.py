"""What a network computes beyond its weights: switches, and logits to compare after a rebuild."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acclimate.backbones.classifier import Classifier
from acclimate.backbones.trace import eval_mode
from acclimate.errors import InputError
from acclimate.storage.sealed import with_versions

_SWITCHES = ("transform_input",)
"""Attributes that change what torchvision's Inception and GoogLeNet compute."""
_MOST = 16
"""The most logits of an image that are kept."""
_LARGEST = 2**25
"""Largest number of values in an image for which logits are kept: 3,344 pixels square."""


def switches_of(module: nn.Module) -> dict[str, bool]:
    """The switches in a network that its ``state_dict`` does not hold, by dotted name.

    torchvision sets ``transform_input`` where it loads its own weights for Inception and GoogLeNet;
    they then expect images normalised by ImageNet's mean and standard deviation.

    ```python
    switches_of(torchvision.models.googlenet())  # {"transform_input": False}
    ```
    """
    return {
        f"{path}.{name}".lstrip("."): value
        for path, part in module.named_modules()
        for name in _SWITCHES
        if isinstance(value := getattr(part, name, None), bool)
    }


def set_switches(module: nn.Module, switches: Mapping[str, bool]) -> None:
    """Set switches that `switches_of` has read, as far as the network has them.

    ```python
    set_switches(network, {"transform_input": True})
    ```
    """
    own = switches_of(module)
    for full, value in switches.items():
        path, _, name = full.rpartition(".")
        if full in own:
            setattr(module.get_submodule(path), name, value)


def load_weights(modules: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a bundle's tensors into its modules, which are in evaluation mode afterwards.

    ```python
    load_weights(bundle.modules, tensors, Path("bundle"))
    ```

    Raises:
        InputError: names or shapes are others.
    """
    try:
        modules.load_state_dict(with_versions(tensors, modules), strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(
            f"the weights in {path} do not fit the network ({reason[:200]}); give a network of the "
            f"architecture that they were saved from."
        ) from error
    modules.eval().requires_grad_(False)


@torch.no_grad()
def some_logits(
    models: Mapping[str, Classifier], shape: tuple[int, int, int]
) -> dict[str, list[list[float]]]:
    """Logits of two fixed images, at most 16 of each, to compare with after a rebuild.

    Models whose logits are not the same in two passes, or are not finite, are left out.

    ```python
    some_logits({"classifier": classifier}, (3, 32, 32))
    ```

    Args:
        models: By name; they run in evaluation mode.
        shape: Channels, height and width of their images.
    """
    found = {}
    for name, model in models.items():
        first, second = _logits(model, shape), _logits(model, shape)
        if first is not None and second is not None and _agree(first, second):
            found[name] = [[float(f"{value:.6g}") for value in row] for row in first.tolist()]
    return found


@torch.no_grad()
def check_logits(
    models: Mapping[str, Classifier],
    saved: Mapping[str, list[list[float]]],
    shape: tuple[int, int, int],
) -> None:
    """Refuse a network that has the saved weights, but computes something else.

    ```python
    check_logits({"classifier": classifier}, saved, (3, 32, 32))
    ```

    Args:
        models: By name; they run in evaluation mode.
        saved: From `some_logits`.
        shape: Channels, height and width of their images.

    Raises:
        InputError: the logits are not the saved ones, up to rounding.
    """
    for name, values in saved.items():
        logits = _logits(models[name], shape) if name in models else None
        if logits is None or not _agree(torch.tensor(values, device="cpu"), logits):
            raise InputError(
                f"the weights fit, but the rebuilt {name} computes other logits than the saved "
                "one: it was built with other arguments; give the network as it was when saved "
                "(Bundle.load(path, model=net))."
            )


def _logits(model: Classifier, shape: tuple[int, int, int]) -> Tensor | None:
    """Evenly spaced logits on the CPU; None where the model fails or they are not finite."""
    like: Any = next(model.parameters(), torch.zeros((), device="cpu"))
    if math.prod(shape) > _LARGEST:
        return None
    pixels = torch.arange(2 * shape[0] * shape[1] * shape[2], device="cpu")
    images = (pixels * (pixels % 1009 + 31) % 251 / 125 - 1).view(2, *shape)
    try:
        with eval_mode(model):
            logits = model(images.to(like)).float().cpu()
    except Exception:  # not a size that the network accepts: nothing can be compared
        return None
    if not logits.isfinite().all():
        return None
    count = min(_MOST, logits.shape[1])
    return logits[:, torch.arange(count, device="cpu") * logits.shape[1] // count]


def _agree(saved: Tensor, logits: Tensor) -> bool:
    """Whether logits are equal, but for what other machines and kernels round."""
    if saved.shape != logits.shape:
        return False
    allowed = 0.02 * saved.std() + 1e-3 * saved.abs().max()
    return bool(((saved - logits).abs() <= allowed).all())
