"""An error that a client of the simulated server is told, with its status."""

from __future__ import annotations


class ApiError(Exception):
    """An error answer; each family of routes wraps it in its own body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
