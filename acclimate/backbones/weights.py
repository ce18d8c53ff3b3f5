"""Find a network's weights in a checkpoint, whatever a trainer wrote around them, and load them."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from acclimate.backbones.checkpoint import Checkpoint, read_checkpoint
from acclimate.backbones.misfit import misfit, other_shapes, shown
from acclimate.backbones.parameter_names import (
    canonical,
    is_optional,
    prefixes_of,
    stands_beside,
)
from acclimate.errors import InputError

EMA = re.compile(r"(^|[._])(ema|averaged|swa|shadow)([._]|$)|(ema|swa)[._]", re.IGNORECASE)
"""Names of weights that were averaged over training, as trainers write them."""
RAW = ("current_model_state.",)
"""Lightning's copy of the weights before averaging; the averaged ones are in ``state_dict``."""


@dataclass(frozen=True)
class Found:
    """A place in a checkpoint that holds all weights of a network."""

    place: str
    """What stands before the network's own names: ``state_dict_ema.module.``."""
    tensors: Mapping[str, Tensor]
    """The tensors by the network's own names."""
    unexpected: tuple[str, ...]
    """Names at this place that the network does not have."""


def read_weights(path: Path) -> Checkpoint:
    """Read a checkpoint, or a part of it: ``FILE:ENTRY`` takes what is below ENTRY.

    ```python
    checkpoint = read_weights(Path("last.ckpt:state_dict_ema"))
    ```

    Raises:
        InputError: there is no such entry, or as `read_checkpoint`.
    """
    path = Path(path)
    name, colon, entry = str(path).rpartition(":")
    if path.exists() or not (colon and entry and Path(name).exists()):
        return read_checkpoint(path)
    checkpoint = read_checkpoint(Path(name))
    below = f"{entry.removesuffix('.')}."
    entries: dict[str, dict[str, Tensor]] = {}
    for place, tensors in checkpoint.entries.items():
        for key, tensor in tensors.items():
            full = place + key
            if full.startswith(below):
                start = max(place, below, key=len)
                entries.setdefault(start, {})[full.removeprefix(start)] = tensor
    if not entries:
        known = {n.split(".")[0] for n in (p + k for p, t in checkpoint.entries.items() for k in t)}
        raise InputError(
            f"{name} has no entry {entry!r}; it has {shown(sorted(known)) if known else 'none'}."
        )
    return Checkpoint(Path(name), entries)


def load_weights(model: nn.Module, path: Path) -> str:
    """Load a checkpoint into a network of one's own, whatever a trainer wrote around its weights.

    ```python
    print(load_weights(network, Path("last.ckpt")))  # weights: last.ckpt, prefix ... removed
    ```

    Args:
        model: Its parameters and buffers are overwritten, unless an error is raised.
        path: As for `read_weights`.

    Returns:
        What was done.

    Raises:
        InputError: as `read_weights`, `find_weights` and `load_into`.
    """
    checkpoint = read_weights(path)
    return load_into(model, find_weights(checkpoint, model), checkpoint)


def number_of_classes(tensors: Mapping[str, Tensor], model: nn.Module, classes: int) -> int | None:
    """The number of classes that weights were trained for, if it differs from the model's.

    Args:
        tensors: The weights.
        model: The architecture, built for ``classes`` classes.
        classes: The model's number of classes.

    Returns:
        The number of rows, in the weights, of the tensors that have ``classes`` rows in the model
        and another number in the weights; None if there are no such tensors, or if they disagree.
    """
    lengths = {
        len(tensors[name])
        for name, own in model.state_dict().items()
        if own.ndim and len(own) == classes and name in tensors and tensors[name].ndim
        if tensors[name].shape[1:] == own.shape[1:] and len(tensors[name]) != classes
    }
    return lengths.pop() if len(lengths) == 1 else None


def find_weights(checkpoint: Checkpoint, model: nn.Module, classes: int | None = None) -> Found:
    """Find the one place in a checkpoint that holds a model's weights.

    Prefixes and the names of wrappers are taken off (DistributedDataParallel, torch.compile, FSDP,
    Lightning). Between weights and their average over training, the average is taken.

    Args:
        checkpoint: From `read_weights`.
        model: The architecture, built for ``classes`` classes.
        classes: The model's number of classes. Tensors with so many rows may have others. None
            allows none.

    Raises:
        InputError: no place holds all weights, or several do; the message has the true reason.
    """
    own = model.state_dict()
    found = [*_places(checkpoint, own, without_module=False)]
    found = found or [*_places(checkpoint, own, without_module=True)]
    if not found:
        raise misfit(checkpoint, own, classes)
    complete = [each for each in found if not each.unexpected]
    if not complete:
        raise misfit(checkpoint, own, classes, found[0].place, found[0].unexpected)
    fitting = [each for each in complete if not differing(each.tensors, own, classes)]
    return _the_one(fitting or complete, checkpoint)


def load_into(
    model: nn.Module, found: Found, checkpoint: Checkpoint, classes: int | None = None
) -> str:
    """Copy weights into a model, converted to its precision.

    Args:
        model: Its parameters and buffers are overwritten, unless an error is raised.
        found: From `find_weights`.
        checkpoint: What it was found in.
        classes: The number of classes that the caller asked for, for the message if the file has
            another.

    Returns:
        What was done, for the user: the file, what was taken off, what was left out.

    Raises:
        InputError: tensors have another shape, are no floating-point numbers where the model's are,
            or parameters hold NaN or infinity.
    """
    path, own = checkpoint.path, model.state_dict()
    if wrong := differing(found.tensors, own, None):
        trained = number_of_classes(found.tensors, model, classes) if classes else None
        if trained and not differing(found.tensors, own, classes):
            raise InputError(
                f"{path} is of a classifier of {trained} classes, not of {classes}; leave the "
                "number of classes out, or give the weights for these classes."
            )
        raise other_shapes(path, found.tensors, own, wrong)
    for name, tensor in found.tensors.items():
        if tensor.is_floating_point() != own[name].is_floating_point() or tensor.is_quantized:
            raise InputError(
                f"{path} holds {name} as {tensor.dtype}, the model needs {own[name].dtype}; give "
                "weights that are not quantised."
            )
    for name, _ in model.named_parameters(remove_duplicate=False):
        if name in found.tensors and not bool(found.tensors[name].float().isfinite().all()):
            raise InputError(f"{path} holds NaN or infinity in {name}; give an earlier checkpoint.")
    # Into the model's own mapping, which knows the versions of its layers: MNASNet needs them.
    own.update(found.tensors)
    without = sorted(set(own) - set(found.tensors))
    model.load_state_dict(own)
    taken = f"weights: {path}"
    if found.place:
        taken += f", prefix '{found.place}' removed"
    if EMA.search(found.place):
        taken += " (the average over training)"
    if without:
        taken += f", without {shown(without)}"
    return taken


def differing(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], classes: int | None
) -> list[str]:
    """Names of the tensors that have another shape than the model's own.

    Args:
        tensors: The weights.
        own: The model's.
        classes: Tensors with so many rows in the model may have another number; None allows none.
    """
    return [
        name
        for name, tensor in tensors.items()
        if tensor.shape != own[name].shape
        and not (own[name].shape[:1] == (classes,) and tensor.shape[1:] == own[name].shape[1:])
    ]


def _places(
    checkpoint: Checkpoint, own: Mapping[str, Tensor], *, without_module: bool
) -> Iterator[Found]:
    """Every place that holds all tensors that a model cannot do without."""
    mine = {new: old for old, new in canonical(own, without_module=without_module).items()}
    needed = {name for name in mine if not is_optional(name)}
    for place, tensors in checkpoint.entries.items():
        theirs = {
            new: old for old, new in canonical(tensors, without_module=without_module).items()
        }
        prefixes = [p for p, n in prefixes_of(theirs, needed).items() if n == len(needed)]
        for prefix in sorted(prefixes, key=len):
            chosen = {
                mine[name]: tensors[theirs[prefix + name]]
                for name in mine
                if prefix + name in theirs
            }
            others = [each for each in prefixes if len(each) > len(prefix)]
            yield Found(
                _written(place, prefix, theirs, mine),
                chosen,
                tuple(_unexpected(theirs, prefix, mine, others)),
            )


def _written(place: str, prefix: str, theirs: Mapping[str, str], mine: Mapping[str, str]) -> str:
    """The prefix as the file has it, with the names of wrappers."""
    name = max((n for n in mine if prefix + n in theirs), key=len)
    original = theirs[prefix + name]
    return place + (original.removesuffix(name) if original.endswith(name) else prefix)


def _unexpected(
    names: Collection[str], prefix: str, own: Collection[str], others: Sequence[str]
) -> Iterator[str]:
    """Names below a prefix that the network does not have and that cannot be left out."""
    for name in names:
        inner = name.removeprefix(prefix)
        at_another = any(name.startswith(other) for other in others)
        known = inner in own or stands_beside(inner)
        if name.startswith(prefix) and not known and not at_another:
            yield inner


def _the_one(found: Sequence[Found], checkpoint: Checkpoint) -> Found:
    """The only place, or that of the average over training."""
    different: list[Found] = []
    for each in found:
        if not each.place.startswith(RAW) and not any(_same(each, other) for other in different):
            different.append(each)
    if len(different) == 1:
        return different[0]
    averaged = [each for each in different if EMA.search(each.place)]
    if len(different) == 2 and len(averaged) == 1:
        return averaged[0]
    first = different[0].place or different[1].place
    names = [f"'{each.place}'" if each.place else "the outermost" for each in different]
    raise InputError(
        f"{checkpoint.path} holds {len(different)} networks that fit: {', '.join(names[:5])}; "
        f"choose one: --weights {checkpoint.path}:{first.removesuffix('.')}."
    )


def _same(one: Found, other: Found) -> bool:
    return one.tensors.keys() == other.tensors.keys() and all(
        torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items()
    )
