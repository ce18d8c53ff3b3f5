"""acclimate: image classifiers that go on learning, without labels, where they are deployed."""

from importlib import import_module
from typing import TYPE_CHECKING

from acclimate.version import __version__

if TYPE_CHECKING:
    from acclimate.adapt import Adapter
    from acclimate.backbones import build, split
    from acclimate.bundle import Bundle
    from acclimate.errors import InputError
    from acclimate.methods import AdapterSettings
    from acclimate.runtime.memory import keep_freed_memory
    from acclimate.source.aligned import align
    from acclimate.source.statistics import measure
    from acclimate.source.train import train
    from acclimate.source.wrapped import wrap
    from acclimate.source.zero_shot import zero_shot

__all__ = [
    "Adapter",
    "AdapterSettings",
    "Bundle",
    "InputError",
    "__version__",
    "align",
    "build",
    "keep_freed_memory",
    "measure",
    "split",
    "train",
    "wrap",
    "zero_shot",
]

_HOMES = {
    "Adapter": "acclimate.adapt",
    "AdapterSettings": "acclimate.methods",
    "Bundle": "acclimate.bundle",
    "InputError": "acclimate.errors",
    "align": "acclimate.source.aligned",
    "build": "acclimate.backbones",
    "keep_freed_memory": "acclimate.runtime.memory",
    "measure": "acclimate.source.statistics",
    "split": "acclimate.backbones",
    "train": "acclimate.source.train",
    "wrap": "acclimate.source.wrapped",
    "zero_shot": "acclimate.source.zero_shot",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: torch alone takes seconds to import."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
