"""The frozen classifier beside an adapter, which may be that itself."""

from dataclasses import replace

from acclimate.adapt.adapter import Adapter
from acclimate.bundle import Bundle
from acclimate.methods import method

_FROZEN = "source"


def frozen_beside(
    adapter: Adapter, bundle: Bundle, memory_limit: str | int | None = None
) -> Adapter:
    """The frozen classifier, at an adapter's precision and on its device.

    ```python
    frozen = frozen_beside(adapter, bundle)
    changed = frozen(images).argmax(1) != adapter(images).argmax(1)
    ```

    Args:
        adapter: Any adapter of the bundle.
        bundle: The bundle.
        memory_limit: Of the frozen classifier's passes, as for `Adapter`.

    Returns:
        An adapter of the method ``source``; ``adapter`` itself if it answers as that does, so that
        nobody needs to ask twice.
    """
    mine, plain = adapter.settings, method(_FROZEN).settings
    settings = replace(plain, precision=mine.precision, seed=mine.seed)
    if method(adapter.name).model == method(_FROZEN).model and mine == settings:
        return adapter
    return Adapter(bundle, _FROZEN, settings, device=adapter.device, memory_limit=memory_limit)
