"""At deployment: adapt to the images that arrive, then answer for them."""

from acclimate.adapt.adapter import Adapter
from acclimate.adapt.chosen import model_of
from acclimate.adapt.cost import Cost
from acclimate.adapt.network import Network, as_network
from acclimate.adapt.state import AdapterState

__all__ = ["Adapter", "AdapterState", "Cost", "Network", "as_network", "model_of"]
