"""From snapshots to text for people. Nothing here reads a file, a clock or a socket."""
