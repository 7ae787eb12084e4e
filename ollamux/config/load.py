"""From the bytes of a configuration file to a fleet, or to every problem in it. Writes nothing, starts nothing."""

from __future__ import annotations

import itertools
import tomllib
from pathlib import Path
from typing import Any

from ollamux.config import syntax
from ollamux.config.findings import Finding
from ollamux.config.locate import DEEPEST, KeyPath, locate
from ollamux.config.problems import ConfigInvalid, Problem
from ollamux.config.source import LARGEST_FILE, first_open_port, read_source
from ollamux.config.warn import warnings
from ollamux.domain.spec import FleetSpec

__all__ = ["ConfigInvalid", "Problem", "parse", "read_config", "warnings"]

_BOM = b"\xef\xbb\xbf"


def read_config(path: Path, *, shown: str | None = None) -> tuple[bytes, FleetSpec]:
    """Return a file's bytes and the fleet it asks for; `shown` is how problems call the file."""
    source = read_source(path)
    return source, parse(source, str(path) if shown is None else shown)


def parse(source: bytes, file: str, *, open_port: int | None = None) -> FleetSpec:
    """Return the fleet that a file asks for, or raise all that is wrong with it.

    `open_port` is the lowest port that may be listened on; left out, this process and machine decide.
    """
    text = _decoded(source, file)
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise _whole_file("brackets are nested too deeply", file, text) from None
    except ValueError as error:
        raise ConfigInvalid([syntax.explain(error, text)], file=file, source=text) from None
    deep = _too_deep(document)
    if deep is not None:
        finding = Finding(path=deep, message=f"tables and lists are nested more than {DEEPEST} deep", at_key=True)
        raise ConfigInvalid([finding.placed(locate(text))], file=file, source=text)
    return _checked(document, text, file, open_port=first_open_port() if open_port is None else open_port)


def _checked(document: dict[str, Any], text: str, file: str, *, open_port: int) -> FleetSpec:
    # Both take their time to import and are for files that were read well so far.
    from ollamux.config.crosscheck import crosscheck
    from ollamux.config.explain import explain
    from ollamux.config.merge import fleet_of
    from ollamux.config.schema import MOST_INSTANCES, json_schema, validate

    places = locate(text)
    instances = document.get("instances")
    if isinstance(instances, dict) and len(instances) > MOST_INSTANCES:
        finding = Finding(
            path=("instances", list(instances)[MOST_INSTANCES]),
            message=f"more than {MOST_INSTANCES} instances: there are {len(instances)}",
            at_key=True,
        )
        raise ConfigInvalid([finding.placed(places)], file=file, source=text)
    table, errors = validate(document)
    findings = list(crosscheck(document, places, first_open_port=open_port))
    if errors:
        findings += explain(errors, json_schema())
    if findings or table is None:
        problems = {each.placed(places) for each in findings if not _told_elsewhere(each, errors)}
        raise ConfigInvalid(problems, file=file, source=text)
    return fleet_of(table)


def _told_elsewhere(finding: Finding, errors: list[Any]) -> bool:
    """Keep quiet about missing instances where the table is there under another name."""
    if finding.path != ("instances",) or "no instance" not in finding.message:
        return False
    return any(
        error["type"] == "extra_forbidden" and len(error["loc"]) == 1 and isinstance(error["input"], dict | list)
        for error in errors
    )


def _decoded(source: bytes, file: str) -> str:
    if len(source) > LARGEST_FILE:
        raise _whole_file("the file is larger than 1 MiB; that is no ollamux configuration", file, "")
    source = source.removeprefix(_BOM)
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _whole_file("the file is in UTF-16; save it as UTF-8", file, "")
    wrong: int | None = source.find(b"\0")
    try:
        text = source.decode()
    except UnicodeDecodeError as error:
        text = source.decode(errors="replace")
        wrong = error.start if wrong == -1 else min(wrong or 0, error.start)
    if wrong == -1 or wrong is None:
        return text
    before = len(source[:wrong].decode())
    line = text.count("\n", 0, before) + 1
    column = before - text.rfind("\n", 0, before)
    what = "a NUL byte" if source[wrong] == 0 else f"byte 0x{source[wrong]:02x}, which is not UTF-8,"
    problem = Problem(
        line=line,
        column=column,
        end_column=column + 1,
        path="",
        message=f"{what} at offset {wrong}",
        hint="take it out" if source[wrong] == 0 else "save the file as UTF-8",
    )
    raise ConfigInvalid([problem], file=file, source=text)


def _whole_file(message: str, file: str, text: str) -> ConfigInvalid:
    problem = Problem(line=0, column=0, end_column=0, path="", message=message)
    return ConfigInvalid([problem], file=file, source=text)


def _too_deep(document: dict[str, Any]) -> KeyPath | None:
    """Return the path to something nested beyond all reason, found without recursion."""
    waiting: list[tuple[KeyPath, Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > DEEPEST:
            return tuple(itertools.takewhile(lambda part: isinstance(part, str), path[:4]))
        if isinstance(value, dict):
            waiting += [((*path, key), each) for key, each in value.items()]
        elif isinstance(value, list):
            waiting += [((*path, number), each) for number, each in enumerate(value)]
    return None
