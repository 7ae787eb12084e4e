"""The last resort: an error that nobody foresaw. It is written down for a report, and the person gets two lines."""

from __future__ import annotations

import os
import tempfile
import traceback

from ollamux import __version__
from ollamux.cli import screen
from ollamux.domain.errors import Exit
from ollamux.domain.text import safe_text


def report(error: BaseException) -> int:
    """Keep the traceback in a private file and say where it is."""
    text = f"ollamux {__version__}\n" + "".join(traceback.format_exception(error))
    what = safe_text(f"{type(error).__name__}: {error}", limit=200)
    try:
        fd, path = tempfile.mkstemp(prefix="ollamux-bug-", suffix=".txt")
        os.write(fd, text.encode("utf-8", "replace"))
        os.close(fd)
        where = f"please report it with {path}"
    except OSError:
        where = "please report it with the command that led to it"
    screen.say(f"ollamux: internal error: {what}\n  {where}\n", fd=2)
    return int(Exit.INTERNAL)
