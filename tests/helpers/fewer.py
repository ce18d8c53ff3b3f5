"""Methods that average answers for many views of each image, made to draw few."""

from acclimate.methods import METHODS


def few_views(name):
    """Changes by which a method draws at most 4 views of each image in a step."""
    views = getattr(METHODS[name].settings.objective, "views", 0)
    return {"objective.views": 4} if isinstance(views, int) and views > 4 else {}
