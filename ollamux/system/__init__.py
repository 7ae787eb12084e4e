"""One thing of the operating system per module, and no policy."""
