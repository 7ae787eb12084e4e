"""Problems of a configuration file and how they are shown. Finds none itself."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from ollamux.config.excerpt import Excerpts
from ollamux.domain.errors import ConfigError
from ollamux.domain.text import safe_text

_PAGE = 110
_MOST_SHOWN = 200
_GUTTER = "      | "


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong in a configuration file. Line 0 is the file as a whole; `hint` is the way out."""

    line: int
    column: int
    end_column: int
    path: str
    message: str
    hint: str | None = None


class ConfigInvalid(ConfigError):  # noqa: N818 - part of the contract with the commands
    """The file holds problems; the message is all of them as a person reads them."""

    def __init__(self, problems: Iterable[Problem], *, file: str, source: str) -> None:
        self.problems = tuple(sorted(problems, key=_order))
        self.file = file
        super().__init__(render(self.problems, file, source))


def _order(problem: Problem) -> tuple[int, int, str]:
    return problem.line, problem.column, problem.path


def render(problems: Iterable[Problem], file: str, source: str, *, count_line: bool = True) -> str:
    """Show every problem with its line, sorted, and how many there are."""
    ordered = sorted(dict.fromkeys(problems), key=_order)
    shown = ordered[:_MOST_SHOWN]
    name = safe_text(file)
    spots = [f"{name}:{each.line}:{each.column}" if each.line else name for each in shown]
    width = max(map(len, spots), default=0)
    excerpts = Excerpts(source)
    lines: list[str] = []
    for problem, spot in zip(shown, spots, strict=True):
        lines.append(f"{spot:<{width}}  {problem.path}".rstrip())
        lines += _body(problem, excerpts)
    if len(ordered) > len(shown):
        lines.append(f"… and {len(ordered) - len(shown)} more")
    if count_line:
        count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
        lines.append(f"{count}. Nothing was changed.")
    return "\n".join(lines)


def _body(problem: Problem, excerpts: Excerpts) -> list[str]:
    message = safe_text(problem.message)
    hint = safe_text(problem.hint) if problem.hint else ""
    whole = f"{message}; {hint}" if hint else message
    if not problem.line:
        return _wrapped(whole) if len(_GUTTER) + len(whole) <= _PAGE else _wrapped(message, hint)
    excerpt = excerpts.of(problem.line, problem.column, problem.end_column)
    carets = _GUTTER + " " * excerpt.caret + "^" * excerpt.width
    lines = [f"{problem.line:>5} | {excerpt.text}".rstrip()]
    if len(carets) + 1 + len(whole) <= _PAGE:
        return [*lines, f"{carets} {whole}"]
    if hint and len(carets) + 1 + len(message) <= _PAGE:
        return [*lines, f"{carets} {message}", *_wrapped(hint)]
    return [*lines, carets, *_wrapped(message, hint)]


def _wrapped(*texts: str) -> list[str]:
    wrapper = textwrap.TextWrapper(_PAGE, initial_indent=_GUTTER, subsequent_indent=_GUTTER, break_on_hyphens=False)
    return [line for text in texts if text for line in wrapper.wrap(text)]
