"""Descriptions of a method for tables: its requirements, and how it adapts."""

from acclimate.methods.recipes import RECIPES
from acclimate.methods.table import Method
from acclimate.objectives import Objective

_LABELLED = ("supervised", "joint", "probe")


def needs(row: Method) -> str:
    """Requirements of a method before and at deployment, for example "labels, batch norm"."""
    recipe = RECIPES[row.recipe]
    requirements = ["labels"] if set(recipe.stages) & set(_LABELLED) else []
    if row.oracle:
        requirements.append("target images")
    if row.objective is not None and row.objective.observe is not Objective.observe:
        requirements.append("source statistics")
    if recipe.transformer:
        requirements.append("a vision transformer")
    if row.batch_norm:
        requirements.append("batch norm")
    elif row.settings.normalisation.uses_batch:
        requirements.append("batches")
    if row.settings.memory.images > 1:
        requirements.append(f"{row.settings.memory.images} images")
    return ", ".join(requirements)


def learns(row: Method) -> str:
    """Steps per image or batch, and whether they are kept, for example "1 step a batch, online"."""
    if not row.settings.steps:
        return "-"
    steps = f"{row.settings.steps} step{'s' if row.settings.steps > 1 else ''}"
    unit = "image" if row.settings.one_by_one else "batch"
    kind = "then forgets" if row.settings.reset.always else "online"
    return f"{steps} a{'n' if unit == 'image' else ''} {unit}, {kind}"
