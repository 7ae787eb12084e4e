"""From a TOML file to a fleet specification, or to every problem in it."""
