"""A copy of a network that nothing can train."""

from torch import nn

from acclimate.backbones.copies import duplicate


def frozen(network: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights are buffers: no optimiser and no flag finds them.

    The names in its ``state_dict`` are the network's.

    Args:
        network: Any network; it is not changed.
    """
    own = duplicate(network).eval()
    for module in own.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, parameter.detach())
    return own
