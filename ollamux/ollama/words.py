"""Find the line of a log that best says why a server died. Pure."""

from __future__ import annotations

import re

from ollamux.domain.text import safe_text
from ollamux.ollama.log import LONGEST_LINE, slog_fields

LONGEST_WORDS = 200
_LONGEST_TAIL = 256 * 1024

_OWN_DEATH = re.compile(r"(?:Error|panic|fatal error|SIGSEGV|SIGBUS|SIGABRT|SIGQUIT): ?\S")
_GPU_TROUBLE = re.compile(
    r"(?:CUDA|ROCm|HIP|Vulkan) error|(?:cuda|hip)Malloc failed|GGML_ASSERT|failed to initialize NVML|out of memory"
    r"|error while loading shared libraries|cannot execute|No space left on device",
    re.IGNORECASE,
)
_LOGGED_ERROR = re.compile(r"\blevel=(?:ERROR|FATAL)\b")
_HINTS = (
    *("error", "panic", "level=fatal", "sigsegv", "sigbus", "sigabrt", "sigquit", "malloc failed", "ggml_assert"),
    *("failed to initialize nvml", "out of memory", "cannot execute", "no space left"),
)
"""In lower case, what each line that one of these matches contains: a look that costs little, before those that do."""


def last_words(tail: str) -> str | None:
    """Return the most telling line of a log's tail, fit to be shown, or None where nothing tells.

    A server's own `Error:` or panic comes before trouble with a GPU, that before a logged error; of equals the last.
    """
    lower = tail[-_LONGEST_TAIL:].lower()
    if not any(hint in lower for hint in _HINTS):
        return None
    lines = [line[:LONGEST_LINE] for line in tail[-_LONGEST_TAIL:].splitlines()]
    for matches in (_OWN_DEATH.match, _GPU_TROUBLE.search, _LOGGED_ERROR.search):
        for line in reversed(lines):
            if not line.startswith(("# ", "[GIN]")) and matches(line.strip()):
                return _shown(line)
    return None


def _shown(line: str) -> str:
    at = line.find("time=")
    if at >= 0 and " msg=" in line:
        fields = slog_fields(line[at:])
        parts = [fields.get("msg", ""), fields.get("error", "")]
        text = ": ".join(part for part in parts if part) or line
    else:
        text = line
    return safe_text(" ".join(text.split()), limit=LONGEST_WORDS)
