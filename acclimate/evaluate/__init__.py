"""Measure methods on corrupted images; only here do labels and answers meet."""
