"""ollamux: launch, supervise and watch one ollama server per GPU."""

__version__ = "0.1.0"
