"""acclimate: image classifiers that go on learning, without labels, where they are deployed."""

__version__ = "0.1.0"
