"""Streams: target images in the order in which they arrive, under distribution shifts.

A stream is lazy, seeded, and can be resumed at any position.

```python
for batch in streams.continual(images, [Shift("fog", 5), Shift("contrast", 5)], batch=64):
    logits = adapter(batch.images)
```
"""

from collections.abc import Callable

from acclimate.data.streams.correlated import (
    class_correlated_continual,
    class_correlated_gradual,
    class_correlated_mixed,
)
from acclimate.data.streams.labelled import class_correlated, label_shifted
from acclimate.data.streams.orders import (
    continual,
    gradual,
    growing_noise,
    joined,
    mixed,
    recurring,
    shuffled,
)
from acclimate.data.streams.stream import CLEAN, Batch, Shift, Stream, shifted

__all__ = [
    "CLEAN",
    "ORDERS",
    "Batch",
    "Shift",
    "Stream",
    "class_correlated",
    "class_correlated_continual",
    "class_correlated_gradual",
    "class_correlated_mixed",
    "continual",
    "gradual",
    "growing_noise",
    "joined",
    "label_shifted",
    "mixed",
    "recurring",
    "shifted",
    "shuffled",
]

ORDERS: dict[str, Callable[..., Stream]] = {
    "shuffled": shuffled,
    "class-correlated": class_correlated,
    "label-shifted": label_shifted,
    "gradual": gradual,
    "growing-noise": growing_noise,
    "continual": continual,
    "recurring": recurring,
    "mixed": mixed,
    "class-correlated-continual": class_correlated_continual,
    "class-correlated-gradual": class_correlated_gradual,
    "class-correlated-mixed": class_correlated_mixed,
}
