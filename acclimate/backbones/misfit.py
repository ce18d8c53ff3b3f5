"""Why a checkpoint does not fit a network, in one sentence."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from acclimate.backbones.checkpoint import Checkpoint
from acclimate.backbones.parameter_names import canonical, is_optional, prefixes_of
from acclimate.errors import InputError

_POSITIONS = re.compile(r"pos_embed|position_embedding|pos_embedding|relative_position|rel_pos")


def misfit(
    checkpoint: Checkpoint,
    own: Mapping[str, Tensor],
    classes: int | None,
    place: str = "",
    unexpected: Sequence[str] = (),
) -> InputError:
    """The error for a checkpoint that does not fit.

    ```python
    raise misfit(checkpoint, model.state_dict(), classes=10)
    ```

    Args:
        checkpoint: What was read.
        own: The tensors of the network.
        classes: The network's number of classes.
        place: The place that has all that the network needs, if there is one.
        unexpected: What else is at that place.
    """
    path = checkpoint.path
    where = f" at '{place}'" if place else ""
    if unexpected:
        return InputError(
            f"{path} does not fit the model: it has all of its tensors{where}, and besides "
            f"unexpected {shown(unexpected)}, so that it is of a larger network; name the "
            "architecture that the weights were saved from."
        )
    if not checkpoint.entries:
        return InputError(f"{path} holds no tensors by name; give a checkpoint with weights.")
    mine = [*canonical(own, without_module=True).values()]
    place, names, beside = _nearest(checkpoint, [name for name in mine if not is_optional(name)])
    missing = [name for name in mine if name not in names and not is_optional(name)]
    unexpected = [name for name in names if name not in mine]
    if len(missing) == len([name for name in mine if not is_optional(name)]):
        return InputError(
            f"{path} does not fit the model: missing {shown(missing)}, unexpected "
            f"{shown(unexpected)}; not one name is the same, so name the architecture that the "
            "weights were saved from."
        )
    heads = {name.rpartition(".")[0] for name, t in own.items() if t.shape[:1] == (classes,)}
    where = f" at '{place}'" if place else ""
    if all(name.rpartition(".")[0] in heads for name in missing):
        return InputError(
            f"{path} holds the network{where} without its classifier: missing {shown(missing)}, "
            f"and besides {shown(unexpected + beside)}; give the weights of the whole classifier, "
            "under its own names."
        )
    return InputError(
        f"{path} does not fit the model{where}: missing {shown(missing)}, unexpected "
        f"{shown(unexpected)}; name the architecture that the weights were saved from."
    )


def other_shapes(
    path: Path, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], names: Sequence[str]
) -> InputError:
    """The error for weights of another shape than a network's.

    Args:
        path: The file.
        tensors: The weights.
        own: The tensors of the network.
        names: Names of those that differ.
    """
    sizes = [f"{n} (file {[*tensors[n].shape]}, model {[*own[n].shape]})" for n in names]
    theirs, mine = tensors[names[0]].shape, own[names[0]].shape
    remedy = "name the architecture, of the width, that the weights were saved from"
    if all(_POSITIONS.search(name) for name in names):
        remedy = "they are for another image size, so name the architecture of that size"
    elif len(names) == 1 and len(theirs) == len(mine) == 4 and theirs[1] != mine[1]:
        remedy = f"they take images of {theirs[1]} channels, so build this network in a function"
    return InputError(f"{path} does not fit the model: other shapes for {shown(sizes)}; {remedy}.")


def shown(names: Sequence[str]) -> str:
    """The number of names, and the first three.

    ```python
    shown(["conv.weight", "conv.bias"])  # 2 (conv.weight, conv.bias)
    ```
    """
    if not names:
        return "none"
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"


def _nearest(checkpoint: Checkpoint, own: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """The place with most of a network's names, the names there, and those beside it."""
    known, best = set(own), (0, "", "", [])
    for place, tensors in checkpoint.entries.items():
        names = [*canonical(tensors, without_module=True).values()]
        counts = prefixes_of(names, known) or Counter({"": 0})
        prefix, count = min(counts.items(), key=lambda each: (-each[1], len(each[0])))
        if count > best[0] or not best[3]:
            best = (count, place, prefix, names)
    _, place, prefix, names = best
    inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return place + prefix, inside, [name for name in names if not name.startswith(prefix)]
