"""The parts that an adapter is composed of: settings, and what they build; one kind a file."""
