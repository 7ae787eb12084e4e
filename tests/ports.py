"""Ports and addresses that nobody else takes, for tests that run beside each other."""

from __future__ import annotations

import random
import socket
import sys

_CHANCE = random.SystemRandom()  # not the seeded one, which is the same in every process of a run


def loopback() -> str:
    """Return a loopback address of one's own, so that tests at the same time do not take each other's ports."""
    if sys.platform != "linux":
        return "127.0.0.1"
    return f"127.{_CHANCE.randrange(1, 255)}.{_CHANCE.randrange(1, 255)}.{_CHANCE.randrange(1, 255)}"


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Return ports that are free, outside the range from which the kernel gives to clients."""
    found: list[int] = []
    while len(found) < count:
        port = _CHANCE.randrange(15000, 32000)
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def free_port() -> int:
    """Return one of them."""
    return free_ports(1)[0]
