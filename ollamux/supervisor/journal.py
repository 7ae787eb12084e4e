"""The record of what happened: one JSON object a line, numbered without gaps, kept in two files of bounded size.

A disk that is full or read-only costs the record, never the supervision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ollamux.domain.schemas import EVENT_SCHEMA
from ollamux.system.clock import rfc3339, wall
from ollamux.system.files import open_plain

FILE_NAME = "events.jsonl"
_LARGEST_FILE = 2 << 20


class Entry(NamedTuple):
    """What is recorded of one change; `at` is by the wall clock."""

    instance: str | None
    old: str | None
    new: str | None
    reason: str | None
    at: float


class Journal:
    """Appends events and tells whoever listens."""

    def __init__(self, folder: str) -> None:
        self.path = f"{folder}/{FILE_NAME}"
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self._seq = _last_seq(self.path) or _last_seq(self.path + ".1") or 0
        self._torn = _is_torn(self.path)

    def add(self, instance: str | None, *, old: str | None, new: str | None, reason: str | None) -> dict[str, Any]:
        """Record a change of state, or a word about one (`old` and `new` the same)."""
        return self.add_all([Entry(instance, old, new, reason, wall())])[0]

    def add_all(self, entries: Sequence[Entry]) -> list[dict[str, Any]]:
        """Record what happened in this order, at the cost of one."""
        events = [self._numbered(entry) for entry in entries]
        if events:
            self._append(b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events))
        for event in events:
            for listener in tuple(self.listeners):
                listener(event)
        return events

    def _numbered(self, entry: Entry) -> dict[str, Any]:
        self._seq += 1
        return {
            "schema": EVENT_SCHEMA,
            "seq": self._seq,
            "time": rfc3339(entry.at),
            "instance": entry.instance,
            "from": entry.old,
            "to": entry.new,
            "reason": entry.reason,
        }

    def _append(self, line: bytes) -> None:
        try:
            fd = open_plain(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                if self._torn:  # what a full disk cut short must not spoil what comes after it
                    line = b"\n" + line
                self._torn = os.write(fd, line) < len(line)
                full = os.fstat(fd).st_size > _LARGEST_FILE
            finally:
                os.close(fd)
            if full:
                os.replace(self.path, self.path + ".1")
        except OSError:
            return


def _is_torn(path: str) -> bool:
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            return file.read(1) not in (b"", b"\n")
    except OSError:
        return False


def _last_seq(path: str) -> int | None:
    try:
        with open(open_plain(path, os.O_RDONLY), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65536))
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["seq"])
        except (ValueError, KeyError, TypeError):
            continue
    return None
