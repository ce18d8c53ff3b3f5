"""Why a checkpoint does not fit a network, in one sentence."""

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

from acclimate.backbones.checkpoint import Checkpoint
from acclimate.backbones.parameter_names import canonical, is_optional, prefixes_of
from acclimate.errors import InputError


def misfit(
    checkpoint: Checkpoint,
    own: Mapping[str, Tensor],
    classes: int,
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
    place, names = _nearest(checkpoint, [name for name in mine if not is_optional(name)])
    missing = [name for name in mine if name not in names and not is_optional(name)]
    unexpected = [name for name in names if name not in mine]
    if len(missing) == len([name for name in mine if not is_optional(name)]):
        return InputError(
            f"{path} does not fit the model: missing {shown(missing)}, unexpected "
            f"{shown(unexpected)}; not one name is the same, so name the architecture that the "
            "weights were saved from."
        )
    heads = {name.rpartition(".")[0] for name, t in own.items() if t.shape[:1] == (classes,)}
    if all(name.rpartition(".")[0] in heads for name in missing):
        return InputError(
            f"{path} holds a network without its classifier: missing {shown(missing)}; give the "
            "weights of a trained classifier."
        )
    where = f" at '{place}'" if place else ""
    return InputError(
        f"{path} does not fit the model{where}: missing {shown(missing)}, unexpected "
        f"{shown(unexpected)}; name the architecture that the weights were saved from."
    )


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


def _nearest(checkpoint: Checkpoint, own: Sequence[str]) -> tuple[str, list[str]]:
    """The place with most of a network's names, and the names there."""
    known, best = set(own), (0, "", "", [])
    for place, tensors in checkpoint.entries.items():
        names = [*canonical(tensors, without_module=True).values()]
        counts = prefixes_of(names, known) or Counter({"": 0})
        prefix, count = min(counts.items(), key=lambda each: (-each[1], len(each[0])))
        if count > best[0] or not best[3]:
            best = (count, place, prefix, names)
    _, place, prefix, names = best
    return place + prefix, [n.removeprefix(prefix) for n in names if n.startswith(prefix)]
