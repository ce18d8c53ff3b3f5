"""What a method needs, and how it learns, in words."""

from acclimate.methods.recipes import RECIPES
from acclimate.methods.table import Method
from acclimate.objectives import Objective

_LABELLED = ("supervised", "joint", "probe")


def needs(row: Method) -> str:
    """What a method must have been given before deployment, and what it must be given there."""
    recipe = RECIPES[row.recipe]
    found = ["labels"] if set(recipe.stages) & set(_LABELLED) else []
    if row.oracle:
        found.append("target images")
    if row.objective is not None and row.objective.observe is not Objective.observe:
        found.append("source statistics")
    if recipe.transformer:
        found.append("a vision transformer")
    if row.batch_norm:
        found.append("batch norm")
    elif row.settings.normalisation.uses_batch:
        found.append("batches")
    if row.settings.memory.images > 1:
        found.append(f"{row.settings.memory.images} images")
    return ", ".join(found)


def learns(row: Method) -> str:
    """From what, how often, and for how long."""
    if not row.settings.steps:
        return "-"
    steps = f"{row.settings.steps} step{'s' if row.settings.steps > 1 else ''}"
    unit = "image" if row.settings.one_by_one else "batch"
    kind = "then forgets" if row.settings.reset.always else "online"
    return f"{steps} a{'n' if unit == 'image' else ''} {unit}, {kind}"
