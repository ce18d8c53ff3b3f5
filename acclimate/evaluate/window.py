"""Single images through a sliding window, for methods that need a batch."""

import torch
from jaxtyping import Float
from torch import Tensor

from acclimate.adapt import Adapter
from acclimate.methods import AdapterSettings
from acclimate.parts.correction import Uncorrected


class SlidingWindow:
    """Answers for images that come one by one, each among the last ones (Marsden et al., ROID).

    ```python
    window = SlidingWindow(acclimate.Adapter(bundle, "tent"), length=16)
    for batch in streams.shuffled(images, batch=1):
        logits = window(batch.images)  # of this one image
    ```

    The window holds the last images, the present one among them. Statistics of the batch are those
    of the window. What a method remembers is learned once the whole window is new, so it learns
    from each image once; between, images are answered for by the model as it is. A method that
    starts each batch from the source weights learns from the window anew for each image. Learning
    from each image alone needs no window.

    Args:
        adapter: Adapts and answers.
        length: Images in the window.
    """

    def __init__(self, adapter: Adapter, length: int):
        self.adapter: Adapter = adapter
        self.length: int = length
        self._window: Tensor | None = None
        self._came = 0

    def __call__(self, image: Tensor) -> Float[Tensor, "1 classes"]:
        """Answer for one image.

        Args:
            image: ``[1, channels, height, width]``, as the adapter takes images.
        """
        settings = self.adapter.settings
        if settings.one_by_one:
            return self.adapter(image)
        earlier = image[:0] if self._window is None else self._window
        self._window = torch.cat([earlier, image])[-self.length :]
        self._came += 1
        if learns(settings, self._came, self.length):
            return self.adapter(self._window)[-1:]
        return self.adapter.peek(self._window if needs_others(settings) else image)[-1:]


def learns(settings: AdapterSettings, came: int, length: int) -> bool:
    """Whether the image of this number, from 1, is one that is learned at."""
    return settings.steps > 0 and (settings.reset.always or came % length == 0)


def passes_in_window(settings: AdapterSettings, length: int, passes: float) -> float:
    """Forward passes for each image that comes, once the window is full.

    Args:
        settings: Of the adapter.
        length: Images in the window.
        passes: Cost of each image of a whole window that is learned from and answered for.
    """
    if settings.one_by_one:
        return passes
    peek = length if needs_others(settings) else 1
    if not settings.steps:
        return peek * passes
    learned = length * passes
    return learned if settings.reset.always else peek + (learned - peek) / length


def needs_others(settings: AdapterSettings) -> bool:
    """Whether an answer depends on the other images of a batch."""
    return settings.normalisation.uses_batch or settings.correction != Uncorrected()
