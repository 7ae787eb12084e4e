"""The imperative shell around the pure core: one loop, one writer of all state."""
