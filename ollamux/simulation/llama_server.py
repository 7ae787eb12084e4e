"""The program `llama-server`, as ollama 0.30 and later start it: a runner that takes everything from its arguments."""

from __future__ import annotations

import sys

from ollamux.simulation.process import show_argument
from ollamux.simulation.runner import main

if __name__ == "__main__":
    show_argument("ollamux.simulation.llama_server", "ollamux.simulation.llama-server")
    main(sys.argv[1:], new=True, name="llama-server")
