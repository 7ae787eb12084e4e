"""A simulated box: cards that do not exist and servers that behave as real ones were recorded to."""
