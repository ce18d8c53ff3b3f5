"""Advice before deployment: which method, at what cost, or none; and the file that says so."""

from acclimate.advise.advice import Advice, advise

__all__ = ["Advice", "advise"]
