"""Taking secrets out of text of any kind: logs, JSON, TOML. Pure; better one word too many than one too few."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ollamux.domain.secrets import MASK, is_secret, mask

_SHORTEST = 5
"""A shorter secret is no secret, and to mask every "no" would leave nothing to read."""
_WORDS = frozenset(("true", "false", "enabled", "disabled", "default", "always", "never"))
# NAME=value, "name": "value", name: value, Name:value within Go's map[…]; in JSON within a log quotes are escaped. A
# name is taken whole and once: logs hold lines of megabytes, and a search that starts anew in each word would not end.
_NAME = re.compile(r"""(?<![\w.\-])([\w.\-]++)\\?["']?[ \t]*+[=:][ \t]*+""")
_VALUE = re.compile(
    r"""\\"[^\\"]*\\" | "(?:[^"\\\n]|\\.)*" | '[^'\n]*' | (?:(?:bearer|basic)[ \t]++)?(?:\\?["'])?[^\s,;&\]\)}"']+""",
    re.IGNORECASE | re.VERBOSE,
)
_TELLTALE = re.compile(r"(?i)key|token|secret|pass|credential|auth|bearer|cookie|signature|webhook|_pwd|_pat\b")
_USER_INFO = re.compile(r"(?<=://)[^\s/\"'<>@]+(?:@[^\s/\"'<>@]+)*@")
_SCHEME = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,}")
_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_WELL_KNOWN = re.compile(
    r"\b(?:sk-[A-Za-z0-9_\-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w\-]{16,}"
    r"|xox[abprs]-[\w\-]{10,}|AKIA[A-Z0-9]{12,}|eyJ[\w\-]{8,}\.[\w\-]{8,}(?:\.[\w\-]*)?)"
)
# With OLLAMA_DEBUG=2 a server logs what it is asked, in these and in whatever else it traces; only `msg` is its own.
_ASKED = re.compile(r'(?<![\w.\-])(prompt=)"(?:[^"\\\n]|\\.)*"')
_TRACED = re.compile(r"^[^\n]*\blevel=TRACE\b[^\n]*$", re.MULTILINE)
_QUOTED = re.compile(r'(?<![\w.\-])((?!msg=)[\w.\-]++=)"(?:[^"\\\n]|\\.)*"')
# To mask these would take the point out of a report: what a GGUF says of its tokenizer, and counts.
_HARMLESS = re.compile(r"(?i)(?:tokenizer[\w.\-]*|[\w.\-]*author)")
_COUNT = re.compile(r"(?i)(?:[\w.\-]*tokens[\w.\-]*|[\w.\-]*key_(?:length|value)[\w.\-]*)")


class Scrubber:
    """Takes out what is known to be secret, what looks like it, and where the home folder is."""

    def __init__(self, *, secrets: Mapping[str, str], homes: Iterable[str]) -> None:
        hidden: set[str] = set()
        for name, value in secrets.items():
            name = name.partition(" ")[0]
            if is_secret(name):
                hidden.add(value)
            elif mask(name, value) != value:
                hidden |= _hidden_parts(value)
        telling = {text for text in hidden if len(text) >= _SHORTEST and text.lower() not in _WORDS}
        self._literals = sorted(telling, key=len, reverse=True)
        self._homes = sorted({home for home in homes if len(home) > 1}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """Return text with all of it taken out."""
        for secret in self._literals:
            text = text.replace(secret, MASK)
        text = _KEY_BLOCK.sub(MASK, text)
        text = _TRACED.sub(lambda line: _QUOTED.sub(_unsaid, line[0]), text)
        text = _ASKED.sub(_unsaid, text)
        text = _USER_INFO.sub(f"{MASK}@", text)
        text = _without_values(text)
        text = _SCHEME.sub(rf"\1 {MASK}", text)
        text = _WELL_KNOWN.sub(MASK, text)
        for home in self._homes:
            text = re.sub(rf"{re.escape(home)}(?![\w\-])", "~", text)
        return text


def _unsaid(found: re.Match[str]) -> str:
    return f'{found[1]}"{MASK}"'


def _without_values(text: str) -> str:
    """Return text without what stands behind names that sound secret."""
    parts, at = [], 0
    for named in _NAME.finditer(text):
        if named.start() < at or not _TELLTALE.search(named[1]) or _HARMLESS.fullmatch(named[1]):
            continue
        value = _VALUE.match(text, named.end())
        if value is None or _says_nothing(named[1], value[0].strip("\\\"'")):
            continue
        opening = re.match(r"\\?[\"']", value[0])
        closing = re.search(r"\\?[\"']$", value[0]) if opening else None
        parts += [text[at : value.start()], opening[0] if opening else "", MASK, closing[0] if closing else ""]
        at = value.end()
    return "".join([*parts, text[at:]])


def _says_nothing(name: str, value: str) -> bool:
    """Tell whether a value is none, or a count that only sounds like a secret."""
    if not value or value == MASK or value.lower() in ("null", "true", "false", "none"):
        return True
    return _COUNT.fullmatch(name) is not None and re.fullmatch(r"\d+(?:\.\d+)?", value) is not None


def _hidden_parts(value: str) -> set[str]:
    """Return what of an address must not be shown: user and password, together and each, and what its query hides."""
    parts: set[str] = set()
    for found in re.finditer(r"(?:(?<=://)|^)([^\s/@]+)(?=@)", value):
        parts |= {found[1], found[1].partition(":")[2]}
    parts |= {found[1] for found in re.finditer(r"[?&;][^=&\s]*=([^&\s]+)", value)}
    return parts
