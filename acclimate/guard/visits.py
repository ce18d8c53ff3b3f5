"""States of earlier parts of a stream come back with their shift: a few, recognised by sight."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

MOST = 4
"""Parts that are kept; the oldest gives way."""
ENOUGH = 128
"""Images of a part from which on it is compared with those that are kept."""
_ALIKE = 0.5  # of all scores' means, in standard deviations; chosen, not measured


class Visits:
    """Parts of a stream: how their images looked, and what was learned from them.

    Tensors are changed in place; their size does not grow.

    Args:
        learned: An adapter's state, whose names and shapes those that are kept will have.
        scores: Number of scores of an image.
        device: Where looks are kept.

    Attributes:
        waiting: 1 while a new part has too few images to be recognised.
    """

    def __init__(self, learned: Mapping[str, Tensor], scores: int, device: torch.device):
        self._learned = [
            {name: torch.zeros_like(tensor) for name, tensor in learned.items()}
            for _ in range(MOST)
        ]
        self._looks = torch.zeros(MOST, 2, scores, device=device)
        self._order = torch.zeros(MOST, dtype=torch.int64)  # 0 is empty, larger is younger
        self.waiting: Tensor = torch.zeros((), dtype=torch.int64)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        own = {"looks": self._looks, "order": self._order, "waiting": self.waiting}
        return own | {
            f"{number}.{name}": tensor
            for number, named in enumerate(self._learned)
            for name, tensor in named.items()
        }

    def keep(
        self, reference: Float[Tensor, "images scores"], learned: Mapping[str, Tensor]
    ) -> None:
        """Keep what was learned from a part, in place of the same part earlier, or of the oldest.

        Args:
            reference: Scores of images of the part.
            learned: The adapter's state.
        """
        same = self._find(reference)
        place = int(self._order.argmin()) if same is None else same
        self._looks[place] = _look(reference)
        self._order[place] = self._order.max() + 1
        for name, tensor in self._learned[place].items():
            tensor.copy_(learned[name])

    def recognised(self, reference: Float[Tensor, "images scores"]) -> dict[str, Tensor] | None:
        """What was learned from a part whose images looked the same, if there was one."""
        place = self._find(reference)
        return None if place is None else self._learned[place]

    def _find(self, reference: Float[Tensor, "images scores"]) -> int | None:
        """The place of the part that looks most like this one, if it looks the same."""
        look = _look(reference)
        spread = ((look[1] ** 2 + self._looks[:, 1] ** 2) / 2).sqrt().clamp(min=1e-6)
        away = ((look[0] - self._looks[:, 0]).abs() / spread).amax(1)
        away[(self._order == 0).to(away.device)] = torch.inf
        place = int(away.argmin())
        return place if float(away[place]) < _ALIKE else None


def _look(reference: Float[Tensor, "images scores"]) -> Float[Tensor, "2 scores"]:
    """Mean and standard deviation of each score."""
    return torch.stack([reference.mean(0), reference.std(0, correction=0)])
