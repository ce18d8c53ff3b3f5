"""Short trainings, most of whose time would go into what is measured after them."""

from contextlib import contextmanager
from unittest.mock import patch

from acclimate.guard import measure
from acclimate.source import held_out, trust


@contextmanager
def few_trials():
    """Trust is chosen from fewer values, with fewer images; test_trust.py tries all values.

    A guard is calibrated under fewer shifts.
    """
    with (
        patch.multiple(trust, LIMITS=(1.0, 0.2), PRIORS=(1.0, 16.0), SMALL=(8,)),
        patch.object(held_out, "MOST", 64),
        patch.multiple(measure, SEVERITIES=(2,), HARD=(2,), ALONE=4),
    ):
        yield
