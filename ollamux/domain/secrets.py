"""Which variables hold secrets, and what is shown in their place. Pure text; no environment is read here."""

from __future__ import annotations

import re

MASK = "***"

_TELLTALE = ("KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH", "BEARER", "COOKIE", "WEBHOOK")
# Greedy up to the last "@": a password may itself hold one, and masking too much does no harm.
_USER_INFO = re.compile(r"(?<=://)\S*(?=@)")
_BARE_USER_INFO = re.compile(r"^[^\s/:]+:(?!//)\S*(?=@)")
_QUERY = re.compile(r"(?i)([?&;][^=&\s]*(?:key|token|secret|pass|auth|sig)[^=&\s]*=)[^&\s]+")


def is_secret(name: str) -> bool:
    """Tell whether a variable of this name is never shown."""
    upper = name.upper()
    return any(word in upper for word in _TELLTALE) or upper.endswith(("_PWD", "_PAT"))


def mask(name: str, value: str) -> str:
    """Return what may be shown of a variable's value: all, a part, or only that there is one."""
    if not value:
        return value
    if is_secret(name):
        return MASK
    if "@" in value:
        value = _USER_INFO.sub(MASK, value)
        if name.upper().endswith("_PROXY"):
            value = _BARE_USER_INFO.sub(MASK, value)
    return _QUERY.sub(rf"\g<1>{MASK}", value) if "=" in value else value
