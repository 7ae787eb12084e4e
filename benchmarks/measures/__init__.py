"""One module a group of figures; each takes the ground and says how much, and returns rows."""
