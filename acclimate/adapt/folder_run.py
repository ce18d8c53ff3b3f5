"""A run over a folder: all that its answers depend on, and what keeps how far it has come."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from jaxtyping import Int64
from torch import Tensor

from acclimate.adapt.adapter import Adapter
from acclimate.adapt.state import AdapterState
from acclimate.bundle import Bundle
from acclimate.data.survey import Survey


class Guarded(Protocol):
    """A guard around an adapter, as a run needs it: `acclimate.guard.Guard`."""

    frozen: Adapter
    both: tuple[Tensor, Tensor] | None
    """Logits of the last batch, of the frozen classifier and of the adapter."""

    @property
    def mode(self) -> str:
        """What becomes of the adapted answers."""
        ...

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of a batch, as given."""
        ...

    def snapshot(self) -> AdapterState:
        """A copy of the present state, the adapter's included."""
        ...

    def restore(self, state: AdapterState) -> None:
        """Go back to a state."""
        ...


@dataclass(frozen=True)
class FolderRun:
    """A run over a folder: what `Checkpoints` need to know to keep it, and to go on with it."""

    bundle: Bundle
    adapter: Adapter
    frozen: Adapter
    found: Survey
    """The images, and the other files."""
    order: Int64[Tensor, " n"] | None
    """Position of each image to answer, in natural path order; None is that order itself."""
    batch: int
    guard: Guarded | None = None
    """Decides whose answers are given; without it they are the adapter's."""

    @property
    def learning(self) -> Adapter | Guarded:
        """What has the state of the run: the guard, or the adapter alone."""
        return self.adapter if self.guard is None else self.guard

    def identity(self) -> dict[str, Any]:
        """All that the answers depend on, as JSON values; a run is only resumed with the same."""
        belongs = self.learning.snapshot().belongs
        weights = [belongs["weights"], self.frozen.snapshot().belongs["weights"]]
        images = hashlib.sha256()
        for path in self.found.items.paths:
            images.update(f"{path}\0{self.found.stamp(path)}\n".encode("utf-8", "surrogatepass"))
        return {
            "bundle": [
                *weights,
                list(self.bundle.classes),
                repr(asdict(self.bundle.preprocessing)),
            ],
            "method": belongs["method"],
            "settings": belongs["settings"],
            "guard": self.guard and {"mode": self.guard.mode, **belongs["guard"]},
            "batch": self.batch,
            "order": "natural" if self.order is None else "shuffled",
            "images": images.hexdigest(),
            "device": self.adapter.device.type,
        }


class Checkpoints(Protocol):
    """Keeps how far a run has come; see `acclimate.adapt.answers_file`."""

    def begin(self, run: FolderRun) -> int:
        """Return the number of items that are done already, with the adapter in its state then."""
        ...

    def batch_done(self, done: int) -> None:
        """Called when all answers of a batch have been taken, with the number of items done."""
        ...
