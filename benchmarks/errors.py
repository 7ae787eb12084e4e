"""What goes wrong while measuring, in words for a person. Nothing is caught here."""

from __future__ import annotations


class BenchError(Exception):
    """The measurement cannot be made or cannot be trusted; the message says why and what to do."""
