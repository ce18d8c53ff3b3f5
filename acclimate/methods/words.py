"""Descriptions of a method for tables: its requirements, and how it adapts."""

from acclimate.methods.recipes import RECIPES
from acclimate.methods.table import Method
from acclimate.objectives import Objective
from acclimate.parts.banks import Balanced, Reservoir
from acclimate.parts.class_balanced import ClassBalanced
from acclimate.parts.memory import Gathered

_BEFORE = {
    "supervised": ["any classifier"],
    "cta": ["any classifier", "unlabelled source images"],
}
"""What a method of each recipe needs before deployment, if its own training is not the only way.

Its classifier may come from anywhere: ``acclimate align`` makes a bundle of recipe cta from it and
unlabelled images, and every bundle has a classifier."""


def needs_transformer(row: Method) -> bool:
    """Whether a method adapts vision transformers alone."""
    return row.transformer or RECIPES[row.recipe].transformer


def tried_on_transformer(row: Method) -> bool:
    """Whether costs are counted on a vision transformer: where it must be one, or mostly is."""
    return needs_transformer(row) or row.zero_shot


def needs(row: Method) -> str:
    """Requirements of a method before and at deployment, for example "labels, batches".

    Labels are named only where a method's own training takes them.
    """
    memory, normalisation = row.settings.memory, row.settings.normalisation
    requirements = list(_BEFORE.get(row.recipe, ["labels"]))
    if row.oracle:
        requirements.append("target images")
    if row.objective is not None and row.objective.observe is not Objective.observe:
        requirements.append("source statistics")
    elif row.settings.source_statistics:
        requirements.append("statistics of unlabelled source images")
    if needs_transformer(row):
        requirements.append("a vision transformer")
    if row.zero_shot:
        requirements = ["a zero-shot classifier", *requirements[1:]]
    if row.batch_norm:
        requirements.append("batch norm")
    elif (
        not row.settings.one_by_one
        and (
            (normalisation.uses_batch and not isinstance(normalisation, ClassBalanced))
            or row.settings.correction.uses_batch
        )
        and not isinstance(memory, Balanced | Reservoir)
    ):
        requirements.append("batches")
    if memory.images > 1:
        requirements.append(f"{memory.images} images")
    return ", ".join(requirements)


def learns(row: Method) -> str:
    """Steps per image or batch, and whether they are kept, for example "1 step a batch, online"."""
    memory = row.settings.memory
    if not row.settings.steps:
        return "-"
    steps = f"{row.settings.steps} step{'s' if row.settings.steps > 1 else ''}"
    unit = "an image" if row.settings.one_by_one else "a batch"
    if isinstance(memory, Balanced | Reservoir):
        unit = f"every {memory.every} images"
    if isinstance(memory, Gathered):
        unit = f"{unit} of at least {memory.images} images"
    kind = "then forgets" if row.settings.reset.always else "online"
    return f"{steps} {unit}, {kind}"
