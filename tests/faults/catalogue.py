"""The entries of the catalogue, the tests that carry their ids, and the page made of both. Runs nothing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PAGE = "docs/faults.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A file of the catalogue and the ids that belong into it."""

    file: str
    title: str
    letter: str
    first: int
    last: int

    @property
    def ids(self) -> list[str]:
        return [f"{self.letter}{number}" for number in range(self.first, self.last + 1)]

    @property
    def path(self) -> Path:
        return HERE / self.file


SECTIONS = (
    Section(file="configuration.toml", title="Configuration and command line", letter="C", first=1, last=30),
    Section(file="processes.toml", title="Processes", letter="R", first=1, last=29),
    Section(file="files.toml", title="Lock, socket, files", letter="R", first=30, last=55),
    Section(file="health.toml", title="Health, GPUs, network", letter="R", first=60, last=72),
    Section(file="service.toml", title="As a service, under cron", letter="R", first=80, last=88),
    Section(file="models.toml", title="Models", letter="M", first=1, last=15),
    Section(file="security.toml", title="Security", letter="S", first=1, last=21),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A piece of the program without which a test of the entry has to fail.

    `alone`: without it the program might signal anybody, and it is run only where it sees no processes but its own.
    """

    file: str
    old: str
    new: str
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One fault. `not_applicable` is the reason why there is nothing to be tested, or None."""

    id: str
    fault: str
    does: str
    guards: tuple[Guard, ...]
    not_applicable: str | None


@dataclass(frozen=True, slots=True, order=True)
class Test:
    """A test function, by its file below the root and its name."""

    file: str
    name: str

    @property
    def node(self) -> str:
        return f"{self.file}::{self.name}"


def read(section: Section) -> dict[str, Entry]:
    """Return the entries of a section by id; none where its file is not written yet."""
    if not section.path.exists():
        return {}
    table = tomllib.loads(section.path.read_text(encoding="utf-8"))
    return {name: _entry(name, keys) for name, keys in table.items()}


def _entry(name: str, keys: Mapping[str, object]) -> Entry:
    known = {"fault", "does", "guards", "not_applicable"}
    if unknown := keys.keys() - known:
        raise ValueError(f"{name}: unknown keys {sorted(unknown)}")
    guards, reason = keys.get("guards", []), keys.get("not_applicable")
    assert isinstance(guards, list), name
    return Entry(
        id=name,
        fault=str(keys["fault"]),
        does=str(keys["does"]),
        guards=tuple(Guard(**guard) for guard in guards),
        not_applicable=None if reason is None else str(reason),
    )


def all_entries() -> dict[str, Entry]:
    """Return every entry by id, in the order of the page."""
    return {name: entry for section in SECTIONS for name, entry in read(section).items()}


@cache
def tests_by_id() -> Mapping[str, tuple[Test, ...]]:
    """Return the tests of every id: those that have it as a word of their name."""
    found: dict[str, list[Test]] = {}
    for test in sorted(_all_tests()):
        for word in test.name.split("_"):
            if re.fullmatch(r"[CMRS][0-9]+", word):
                found.setdefault(word, []).append(test)
    return {name: tuple(tests) for name, tests in found.items()}


def _all_tests() -> Iterator[Test]:
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield Test(path.relative_to(ROOT).as_posix(), name)


def page() -> str:
    """Return the text of the page."""
    lines = [
        "# What can go wrong, and what ollamux does",
        "",
        "Made from `tests/faults/*.toml` by `python -m tests.faults`; `pytest -k R30` runs the tests of one entry.",
        "`python -m tests.faults --guards` takes the code that guards against each fault out of a copy of the program,",
        "and sees whether a test of that entry notices.",
    ]
    for section in SECTIONS:
        lines += ["", f"## {section.title}", "", _counts(section), ""]
        lines += ["| id | fault | what ollamux does | tests |", "|---|---|---|---|"]
        entries = read(section)
        lines += [_row(entries[name]) for name in section.ids if name in entries]
    return "\n".join(lines) + "\n"


def _counts(section: Section) -> str:
    entries = read(section).values()
    left_out = [entry for entry in entries if entry.not_applicable is not None]
    tested = [entry for entry in entries if entry not in left_out and tests_by_id().get(entry.id)]
    still_open = len(section.ids) - len(tested) - len(left_out)
    return f"{len(tested)} tested · {len(left_out)} not applicable · {still_open} open"


def _row(entry: Entry) -> str:
    if entry.not_applicable is not None:
        proof = f"not applicable: {entry.not_applicable}"
    else:
        tests = tests_by_id().get(entry.id, ())
        proof = "<br>".join(f"`{test.file.removeprefix('tests/')}` {test.name}" for test in tests) or "open"
    cells = (entry.id, entry.fault, entry.does, proof)
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
