"""Short trainings, most of whose time would go into measuring trust in batch statistics."""

from contextlib import contextmanager
from unittest.mock import patch

from acclimate.source import held_out, stages, trust


@contextmanager
def few_trials():
    """Trust is chosen from fewer values, with fewer images; test_trust.py tries all values."""
    with (
        patch.multiple(trust, LIMITS=(1.0, 0.2), PRIORS=(1.0, 16.0), SMALL=(8,)),
        patch.object(held_out, "MOST", 64),
        patch.object(stages, "MOST", 64),
    ):
        yield
