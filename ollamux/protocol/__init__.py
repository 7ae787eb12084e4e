"""What a client and the supervisor say to each other over the control socket."""
