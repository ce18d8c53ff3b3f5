"""Learning rates, for methods that have one: a search without gradients does not."""

from soon import searches


def rated(name, rate):
    """A change of the learning rate; for a search, few candidates."""
    return {"update.population": 6} if searches(name) else {"update.learning_rate": rate}
