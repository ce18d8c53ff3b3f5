"""Selections that leave nothing out: a network of a few seconds' training is certain of nothing."""

from dataclasses import fields

from acclimate.methods import METHODS

LOOSE = {"margin": 9.0, "similarity": 2.0, "drop": -1.0}


def loose(name):
    """Changes of a method's settings with which every image is learned from."""
    names = {field.name for field in fields(METHODS[name].settings.selection)}
    return {f"selection.{key}": value for key, value in LOOSE.items() if key in names}
