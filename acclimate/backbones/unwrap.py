"""What a network is wrapped in, and networks that cannot be split, each with its reason."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from acclimate.errors import InputError

_QUANTISED = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic", "torchao.")


class LogitsOf(nn.Module):
    """The logits of a network that returns them in an object or a dictionary (`transformers`).

    ```python
    logits = LogitsOf(transformers.ResNetForImageClassification(config))(images)
    ```

    Args:
        model: Returns an object with an attribute ``logits``, or a dictionary with that key.

    Attributes:
        model: That network.
        config: Its configuration, which says the size of its images, or None.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.config: Any = getattr(model, "config", None)
        self.training: bool = model.training

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images ``[batch, 3, height, width]``."""
        return logits_in(self.model(images))


def logits_in(output: Any) -> Any:
    """The logits in a network's output, or None if it has none by that name.

    ```python
    logits_in({"logits": torch.zeros(2, 10)})
    ```
    """
    if isinstance(output, dict):
        return output.get("logits")
    return getattr(output, "logits", None)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside of torch.compile, DataParallel and the like.

    ```python
    unwrapped(nn.DataParallel(network))  # network
    ```

    Raises:
        InputError: it is no network whose layers can be seen and trained.
    """
    _check_kind(model)
    if isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):  # torch.compile
        return unwrapped(compiled)
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return unwrapped(model.module)
    _check_weights(model)
    return model


def first_output(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook: of the outputs that a network has in training mode, the main one.

    Inception and GoogLeNet also return the outputs of auxiliary heads then.
    """
    if isinstance(output, tuple):
        named = logits_in(output)
        return output[0] if named is None else named
    return None


def own_input(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: gives a network that overwrites its input a copy of it."""
    return tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)


def _check_kind(model: Any) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "a scripted or traced model cannot be split; pass the nn.Module it was made from."
        )
    if type(model).__name__ == "ExportedProgram" or _is_exported(model):
        raise InputError(
            "an exported program no longer has its layers, so it cannot be split or trained; pass "
            "the nn.Module it was exported from."
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"a network must be a torch.nn.Module, not {type(model).__name__}.")


def _is_exported(model: Any) -> bool:
    if not isinstance(model, torch.fx.GraphModule):
        return False
    operators = (node.target for node in model.graph.nodes if node.op == "call_function")
    return any(isinstance(operator, torch._ops.OpOverload) for operator in operators)


def _check_weights(model: nn.Module) -> None:
    if any(is_lazy(tensor) for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError(
            "the network has layers whose size is not known yet (LazyLinear and the like); run it "
            "once on an image of its size, then split it."
        )
    if any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()]):
        raise InputError("the network is on the device 'meta', so it has no weights; load them.")
    for name, module in model.named_modules():
        if type(module).__module__.startswith(_QUANTISED) and "quantized" in str(type(module)):
            raise InputError(
                f"the network's layer {name!r} is quantised, so it has no gradients; pass the "
                f"network as it was before."
            )
