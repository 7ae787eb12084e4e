"""Commands: each parses its words, calls, and prints."""
