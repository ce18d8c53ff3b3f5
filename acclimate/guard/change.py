"""A change of the stream is found by bets on how recent images rank among earlier ones."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from acclimate.guard.looks import LOOKS, looks
from acclimate.guard.signals import log_odds

SCORES = ("log-odds of the frozen confidence", *LOOKS)
"""The numbers that are compared, one for each image, in this order."""
REFERENCE = 256
"""Images after the last change that later ones are compared with."""
_BETS = -1.8, 1.8  # that scores have fallen, or risen; nearly all is staked, so only a large
# change of ranks wins, and the random error of a reference of 256 images does not
_WON = 20.0  # nats; e^20 in a fair game once in so many images, here one of 12 games


@dataclass(frozen=True)
class ChangeState:
    """The reference and the wealth of the bets. Changed in place; its size does not grow."""

    reference: Float[Tensor, "reference scores"]
    """Scores of the first images after the last change; rows from `filled` on are not yet there."""
    filled: Int64[Tensor, ""]
    """Number of rows that are there."""
    wealth: Float[Tensor, "scores bets"]
    """Logarithm of what each bet has won since it last had nothing, 0 or more."""
    since: Int64[Tensor, ""]
    """Images since the last change, or since the beginning."""

    @classmethod
    def new(cls, device: torch.device | None = None) -> "ChangeState":
        """The state before any image."""
        count = len(SCORES)
        return cls(
            torch.zeros(REFERENCE, count, device=device),
            torch.zeros((), dtype=torch.int64, device=device),
            torch.zeros(count, len(_BETS), device=device),
            torch.zeros((), dtype=torch.int64, device=device),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return vars(self).copy()


@dataclass(frozen=True)
class Change:
    """The result of a batch: a change, or none."""

    found: bool
    """True if the stream has become another one."""
    score: str
    """Name of the score that changed most, of `SCORES`."""
    since: int
    """Images since the last change, or since the beginning: up to the image that showed it."""
    wealth: float
    """Logarithm of the largest win of a bet; a change is found at 20."""


def scores(
    images: UInt8[Tensor, "batch channels height width"]
    | Float[Tensor, "batch channels height width"],
    frozen: Float[Tensor, "batch classes"],
) -> Float[Tensor, "batch 6"]:
    """Compute the numbers of `SCORES`, each from one image alone.

    Args:
        images: uint8 0..255 or floats 0..1, at least 3 pixels to each side.
        frozen: Logits of the frozen classifier.
    """
    return torch.cat([log_odds(frozen).float()[:, None], looks(images)], 1)


def watch(scores: Float[Tensor, "batch 6"], state: ChangeState) -> Change:
    """Compare a batch with the reference, and remember it.

    The rank of an image among those of the reference is even, as long as nothing has changed
    (Vovk et al., *Algorithmic learning in a random world*, 2005). Each bet stakes on higher or
    lower ranks of one score. Its wealth counts from where it was least, as in Page's CUSUM test. A
    change is found where a bet has won e^20; then the next images are the new reference. A batch
    shows at most one change.

    ```python
    change = watch(scores(images, frozen), state)
    ```

    Args:
        scores: From `scores`, in the order in which the images came.
        state: What was seen before; changed in place.
    """
    free = REFERENCE - int(state.filled)
    early, late = scores[:free], scores[free:]
    if len(early):
        first = int(state.filled)
        state.reference[first : first + len(early)] = early
        state.filled.add_(len(early))
        state.since.add_(len(early))
    wealth, most = _wealth(late, state)  # [late, scores, bets]
    over = wealth.flatten(1).amax(1) >= _WON
    at = int(over.int().argmax()) if bool(over.any()) else -1
    if at < 0:
        state.since.add_(len(late))
        state.wealth.copy_(most)
        best = int(most.amax(1).argmax())
        return Change(False, SCORES[best], int(state.since), float(most.max()))
    best = int(wealth[at].amax(1).argmax())
    found = Change(True, SCORES[best], int(state.since) + at + 1, float(wealth[at].max()))
    rest = late[at + 1 :][:REFERENCE]
    state.reference[: len(rest)] = rest
    state.filled.fill_(len(rest))
    state.since.fill_(len(late) - at - 1)
    state.wealth.zero_()
    return found


def _wealth(
    late: Float[Tensor, "late scores"], state: ChangeState
) -> tuple[Float[Tensor, "late scores bets"], Float[Tensor, "scores bets"]]:
    """Wealth after each image, and after the last one."""
    if not len(late):
        return state.wealth[None][:0], state.wealth.clone()
    ordered = state.reference.T.contiguous().sort(1).values  # [scores, reference]
    own = late.T.contiguous()
    below = torch.searchsorted(ordered, own)
    up_to = torch.searchsorted(ordered, own, right=True)
    rank = (0.5 * (below + up_to) + 0.5).T / (REFERENCE + 1)  # [late, scores], 0..1
    bets = torch.tensor(_BETS, device=late.device)
    won = (1 + bets * (rank[..., None] - 0.5)).log().cumsum(0) + state.wealth
    least = won.cummin(0).values.clamp(max=0)
    wealth = won - least
    return wealth, wealth[-1]
