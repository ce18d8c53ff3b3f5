"""Names of parameters: what wrappers add to them, and what is not needed to classify."""

import re
from collections import Counter
from collections.abc import Collection

# torch.compile, FSDP and activation checkpointing put these into names, in any nesting.
_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MODULE = re.compile(r"(?:^|(?<=\.))module\.")
# Computed when a network is built; some versions of a library save them and others do not.
_COMPUTED = re.compile(
    r"(^|\.)(num_batches_tracked|position_ids|relative_position_index|relative_coords_table|"
    r"attn_mask|attention_bias_idxs)$"
)
# Classifiers in the middle of a network, used only in training; torchvision builds the first.
_BUILT_AUXILIARY = re.compile(r"^(AuxLogits|aux1|aux2)\.")
_AUXILIARY = re.compile(r"^(AuxLogits|aux\d?|aux_logits|aux_head|aux_classifier|auxiliary_head)\.")
# What trainers keep beside a network in one module.
_BESIDE = re.compile(
    r"^(n_averaged$|(\w+_)?(criterion|loss|losses|loss_fn|metric|metrics|acc|accuracy)(\d|_\w+)?"
    r"(\.|$))"
)


def canonical(names: Collection[str], *, without_module: bool) -> dict[str, str]:
    """Each name without the names of wrappers, and with torch's present names of parametrisations.

    ``_orig_mod.conv.weight_g`` becomes ``conv.parametrizations.weight.original0``.

    Args:
        names: All names of a network, or of a mapping in a checkpoint.
        without_module: Whether ``module.``, which DistributedDataParallel adds, is taken off too.
    """
    known, taken, result = set(names), set(), {}
    for name in names:
        new = _parametrised(name, known)
        new = _WRAPPERS.sub("", new)
        new = _MODULE.sub("", new) if without_module else new
        if new not in taken:  # a compiled network may stand beside itself
            taken.add(new)
            result[name] = new
    return result


def prefixes_of(names: Collection[str], own: Collection[str]) -> Counter[str]:
    """For each prefix of the names, how many of a model's own names follow it."""
    counts: Counter[str] = Counter()
    for name in names:
        start = 0
        while start >= 0:
            if name[start:] in own:
                counts[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    return counts


def is_optional(name: str) -> bool:
    """Whether a network classifies the same if a file lacks its tensor of this name."""
    return bool(_COMPUTED.search(name) or _BUILT_AUXILIARY.search(name))


def stands_beside(name: str) -> bool:
    """Whether a tensor that a network does not have may be left out of what a file holds."""
    return any(each.search(name) for each in (_COMPUTED, _AUXILIARY, _BESIDE))


def _parametrised(name: str, known: Collection[str]) -> str:
    """The present name of what torch.nn.utils.weight_norm or spectral_norm named before."""
    owner, _, last = name.rpartition(".")
    owner = f"{owner}." if owner else ""
    if f"{owner}weight_orig" in known:
        new = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    else:
        new = {"weight_g": "original0", "weight_v": "original1"}
    return f"{owner}parametrizations.weight.{new[last]}" if last in new else name
