"""Read weights from a .safetensors file, check them against a model, and load them."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from acclimate.errors import InputError

LARGEST_FILE = 8 * 2**30
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".tar")
PREFIXES = ("module.", "_orig_mod.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, without the prefixes that wrappers add.

    Args:
        path: The file, of at most 8 GiB.

    Raises:
        InputError: the file does not exist, is a pickle, is too large, or is damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no file with weights at {path}; check the path.")
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path} is a pickle, which can run code when it is read; if you trust it, convert "
            "it: safetensors.torch.save_file(torch.load(path, weights_only=True), "
            "'weights.safetensors')."
        )
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path} is larger than 8 GiB, the limit for weights; check the path.")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} cannot be read as a .safetensors file ({error}); save or copy it again."
        ) from error
    return _without_prefixes(tensors)


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


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a model whose names and shapes they match exactly.

    Args:
        model: Its parameters and buffers are overwritten, unless an error is raised.
        tensors: The weights.
        path: The file that they were read from, for error messages.

    Raises:
        InputError: tensors are missing, unexpected or of another shape.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    if missing or unexpected:
        raise InputError(
            f"{path} does not fit the model: missing {_list(missing)}, unexpected "
            f"{_list(unexpected)}; name the architecture that the weights were saved from."
        )
    differing = [
        f"{name} (file {list(tensors[name].shape)}, model {list(tensor.shape)})"
        for name, tensor in own.items()
        if tensors[name].shape != tensor.shape
    ]
    if differing:
        raise InputError(
            f"{path} does not fit the model: other shapes for {_list(differing)}; build the model "
            "with the width and the number of classes that the weights were trained with."
        )
    model.load_state_dict(tensors)


def _list(names: list[str]) -> str:
    if not names:
        return "none"
    more = ", ..." if len(names) > 3 else ""
    return f"{len(names)} ({', '.join(names[:3])}{more})"


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for _ in PREFIXES:  # DistributedDataParallel and torch.compile nest in either order.
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in tensors):
                tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
