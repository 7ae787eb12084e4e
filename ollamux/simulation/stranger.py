"""A program that has nothing to do with ollama and holds a port until a file is gone."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ollamux.simulation.http import listen
from ollamux.simulation.process import take_name

_BIND_TRIES, _POLL_S = 100, 0.03


def main(host: str, port: int, path: Path) -> None:
    """Leave the starter, bind, say so on stdout, and stay until the file is gone."""
    if os.fork():
        os._exit(0)
    os.setsid()
    take_name("stranger")
    for _ in range(_BIND_TRIES):
        try:
            sock = listen(host, port)
            break
        except OSError:
            time.sleep(_POLL_S)
    else:
        return
    os.write(1, b"!")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    while path.exists():
        time.sleep(_POLL_S)
    sock.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
