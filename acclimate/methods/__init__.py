"""Two tables, plain data: how a model is made before deployment, and how it adapts there."""

from acclimate.methods.recipes import RECIPES, Recipe
from acclimate.methods.settings import AdapterSettings
from acclimate.methods.table import METHODS, Method, check_model, method

__all__ = ["METHODS", "RECIPES", "AdapterSettings", "Method", "Recipe", "check_model", "method"]
