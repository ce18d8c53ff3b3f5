"""Two tables, plain data: how a model is made before deployment, and how it adapts there."""

from acclimate.methods.changes import changed, settings_of_record, settings_record
from acclimate.methods.checks import check_settings
from acclimate.methods.method import Method
from acclimate.methods.recipes import RECIPES, Recipe
from acclimate.methods.settings import AdapterSettings
from acclimate.methods.table import METHODS, check_model, method

__all__ = [
    "METHODS",
    "RECIPES",
    "AdapterSettings",
    "Method",
    "Recipe",
    "changed",
    "check_model",
    "check_settings",
    "method",
    "settings_of_record",
    "settings_record",
]
