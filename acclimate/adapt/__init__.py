"""At deployment: adapt to the images that arrive, then answer for them."""

from acclimate.adapt.adapter import Adapter, model_of
from acclimate.adapt.cost import Cost
from acclimate.adapt.state import AdapterState

__all__ = ["Adapter", "AdapterState", "Cost", "model_of"]
