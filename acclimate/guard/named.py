"""Records of tensors that a bundle keeps by name."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

from torch import Tensor


class Named:
    """A dataclass, all of whose fields are tensors: it becomes tensors by name, and comes back."""

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """The tensors by name."""
        own: Any = self
        return {f"{prefix}{each.name}": getattr(own, each.name) for each in fields(own)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], prefix: str) -> Self:
        """The record that `tensors` gave.

        Raises:
            KeyError: a tensor is missing.
        """
        kind: Any = cls
        return kind(*(tensors[f"{prefix}{each.name}"] for each in fields(kind)))
