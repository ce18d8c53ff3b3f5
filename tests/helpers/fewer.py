"""Methods of many steps, and of many views of each image, made to take few."""

from acclimate.methods import METHODS
from acclimate.objectives import TemplateTurnsOptions


def few_steps(name, count):
    """Changes by which a method takes so many steps; with templates each is a turn of one round."""
    changes = {"steps": count}
    if isinstance(METHODS[name].settings.objective, TemplateTurnsOptions):
        turns = {"templates": count, "steps": 1}
        for part in ("objective", "aftermath.0"):
            changes |= {f"{part}.{setting}": value for setting, value in turns.items()}
    return changes


def few_views(name):
    """Changes by which a method draws at most 4 views of each image in a step."""
    views = getattr(METHODS[name].settings.objective, "views", 0)
    return {"objective.views": 4} if isinstance(views, int) and views > 4 else {}
