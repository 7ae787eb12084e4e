"""Which GPUs there are, what they do, and what a reference in a configuration means. Read-only."""
