"""Chaos: real supervisors under random faults, watched by an observer that shares no code with them."""
