import pytest

from acclimate.data.streams import ORDERS
from acclimate.errors import InputError
from acclimate.evaluate.arrival import groups
from acclimate.evaluate.protocols import PROTOCOLS, protocol_name, under
from acclimate.evaluate.task import Grid

GRID = Grid(("none", "fog", "gaussian_noise"), methods=("tent",), batch=50, seeds=(3,))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_sets_how_images_arrive_and_nothing_else(name):
    protocol = PROTOCOLS[name]
    grid = under(name, GRID)
    assert grid.orders == (protocol.order,) and protocol.order in ORDERS
    assert (grid.corruptions, grid.methods, grid.seeds) == (GRID.corruptions, ("tent",), (3,))
    expected = (1, protocol.window) if protocol.window else (50, 0)
    assert (grid.batch, grid.window) == expected
    assert protocol_name(protocol.order, grid.window) == name


def test_where_adapters_begin_anew_is_what_the_protocols_say():
    """A stream of several shifts has one adapter; a stream of one shift has one of its own."""
    for name, protocol in PROTOCOLS.items():
        together = max(len(group) for group in groups(protocol.order, GRID.shifts())) > 1
        assert together == (name not in ("reset", "class-correlated", "single-images"))
        assert ("anew" in protocol.summary) == (name in ("reset", "class-correlated"))


def test_a_window_of_ones_own_stays():
    assert under("single-images", Grid(("fog",), batch=1, window=8)).window == 8
    assert protocol_name("label-shifted", 0) == "label-shifted"


def test_an_unknown_protocol_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="unknown protocol 'continuel': did you mean continual"):
        under("continuel", GRID)
