"""The catalogue of faults: what can go wrong, what ollamux does about it, and which test would notice if it did not."""
