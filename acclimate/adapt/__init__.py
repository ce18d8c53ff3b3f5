"""At deployment: adapt to the images that arrive, then answer for them."""

from acclimate.adapt.adapter import Adapter, Snapshot, model_of

__all__ = ["Adapter", "Snapshot", "model_of"]
