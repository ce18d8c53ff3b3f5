"""Short names for the settings that tests change most."""

OWNERS = {
    "learning_rate": "update",
    "momentum": "update",
    "parameters": "update",
    "auxiliary": "update",
    "prior": "normalisation",
    "temperature": "objective",
}


def dotted(**changes):
    """Changes by the names that `acclimate.methods.changed` takes."""
    return {f"{OWNERS[n]}.{n}" if n in OWNERS else n: value for n, value in changes.items()}
