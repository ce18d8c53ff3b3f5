"""Networks whose public weights nobody here trained, built by name for bundles.

``public_networks:resnet20`` in a bundle is found while a study of this folder runs, because Python
looks for modules beside the script.
"""

import importlib.util
from pathlib import Path

from torch import nn

_EXAMPLE = Path(__file__).parents[1] / "examples" / "public_resnet.py"


def resnet20(classes: int = 10) -> nn.Module:
    """ResNet-20 of github.com/akamaster/pytorch_resnet_cifar10, with random weights."""
    return _resnet(20, classes)


def resnet56(classes: int = 10) -> nn.Module:
    """ResNet-56 of the same, with random weights."""
    return _resnet(56, classes)


def _resnet(depth: int, classes: int) -> nn.Module:
    spec = importlib.util.spec_from_file_location("public_resnet", _EXAMPLE)
    assert spec is not None and spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example.ResNet((depth - 2) // 6, classes=classes)
