"""Taking secrets out of text of any kind: logs, JSON, TOML. Pure; better one word too many than one too few."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ollamux.domain.secrets import MASK, is_secret, mask

_SHORTEST = 4
"""A shorter secret is no secret, and to mask every "no" would leave nothing to read."""
_TELLTALE = r"[\w.\-]*(?:key|token|secret|passw|passphrase|credential|auth|bearer|cookie|_pwd)[\w.\-]*"
_VALUE = r"""(?:\\?"(?:[^"\\]|\\.)*"|'[^']*'|(?:(?:bearer|basic)\s+)?[^\s,;&\]\)}"']+)"""
# NAME=value, "name": "value", name: value, Name:value within Go's map[…]; in JSON within a log quotes are escaped.
_ASSIGNED = re.compile(rf"""(?i)(\b{_TELLTALE}\\?["']?\s*[=:]\s*)({_VALUE})""")
_USER_INFO = re.compile(r"(?<=://)[^\s/\"'<>@]+(?:@[^\s/\"'<>@]+)*@")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,}")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_WELL_KNOWN = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w\-]{16,}"
    r"|xox[abprs]-[\w\-]{10,}|AKIA[A-Z0-9]{12,}|eyJ[\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*)?)"
)
# Names under which a figure or a word of ours stands: to mask it would take the point out of a report.
_HARMLESS = re.compile(r"(?i)^(?:id|key_?length|head_count|n_?head|tokens?(?:_per_second|s)?|\w*_tokens?)$")


class Scrubber:
    """Takes out what is known to be secret, what looks like it, and where the home folder is."""

    def __init__(self, *, secrets: Mapping[str, str], home: str) -> None:
        hidden: set[str] = set()
        for name, value in secrets.items():
            name = name.partition(" ")[0]
            if is_secret(name):
                hidden.add(value)
            elif mask(name, value) != value:
                hidden |= _hidden_parts(value)
        self._literals = sorted((text for text in hidden if len(text) >= _SHORTEST), key=len, reverse=True)
        self._home = home if len(home) > 1 else None

    def text(self, text: str) -> str:
        """Return text with all of it taken out."""
        for secret in self._literals:
            text = text.replace(secret, MASK)
        text = _KEY_BLOCK.sub(MASK, text)
        text = _USER_INFO.sub(f"{MASK}@", text)
        text = _ASSIGNED.sub(_assigned, text)
        text = _SCHEME.sub(rf"\1 {MASK}", text)
        text = _WELL_KNOWN.sub(MASK, text)
        if self._home is not None:
            text = re.sub(rf"{re.escape(self._home)}(?=/|\b)", "~", text)
        return text


def _assigned(found: re.Match[str]) -> str:
    head, value = found[1], found[2]
    bare = value.strip("\\\"'")
    name = re.match(r"[\w.\-]+", head)
    if not bare or bare == MASK or bare.isdigit() or bare.lower() in ("null", "true", "false", "none"):
        return found[0]
    if name is not None and _HARMLESS.match(name[0]):
        return found[0]
    opening = re.match(r"\\?[\"']", value)
    closing = re.search(r"\\?[\"']$", value) if opening else None
    return f"{head}{opening[0] if opening else ''}{MASK}{closing[0] if closing else ''}"


def _hidden_parts(value: str) -> set[str]:
    """Return what of an address must not be shown: user and password, together and each, and what its query hides."""
    parts: set[str] = set()
    for found in re.finditer(r"(?:(?<=://)|^)([^\s/@]+)(?=@)", value):
        parts |= {found[1], found[1].partition(":")[2]}
    parts |= {found[1] for found in re.finditer(r"[?&;][^=&\s]*=([^&\s]+)", value)}
    return parts
