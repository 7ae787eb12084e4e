"""`ollamux doctor`: what is wrong with a machine, the worst first, each with the command that mends it."""
