"""Import, soon after the start and at leisure, all that a supervisor can ever need and has not loaded yet.

An installer replaces files under a running program: what is imported only when something happens would then be of
another version, or not be there. A test holds that nothing is missing.
"""

from __future__ import annotations

from importlib import import_module

_OURS = (
    "ollamux.gpu.allocation",
    "ollamux.gpu.client",
    "ollamux.gpu.codec",
    "ollamux.gpu.resolve",
    "ollamux.gpu.spawn",
    "ollamux.ollama.binary",
    "ollamux.ollama.judge",
    "ollamux.ollama.words",
    "ollamux.render.table",
    "ollamux.supervisor.calibration",
    "ollamux.supervisor.carried",
    "ollamux.supervisor.carry",
    "ollamux.supervisor.console",
    "ollamux.supervisor.upgrade",
    "ollamux.supervisor.vram",
)
_LIBRARY = ("difflib", "fnmatch", "hashlib", "linecache", "pwd", "subprocess", "tempfile", "tokenize")
"""Parts of the standard library that are imported within functions, ours or its own."""


def load(*, simulated: bool) -> None:
    """Load it."""
    for name in (*_OURS, *_LIBRARY, *(("ollamux.simulation.control",) if simulated else ())):
        import_module(name)
