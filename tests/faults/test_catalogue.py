"""The catalogue of faults is complete, its page is current, and what it takes out is there."""

from __future__ import annotations

import pytest

from . import catalogue, guards


def test_the_page_is_current() -> None:
    written = (catalogue.ROOT / catalogue.PAGE).read_text(encoding="utf-8")
    assert written == catalogue.page(), "run: python -m tests.faults"


@pytest.mark.parametrize("section", catalogue.SECTIONS, ids=lambda section: section.file)
def test_every_fault_has_an_entry_a_test_and_a_guard(section: catalogue.Section) -> None:
    entries = catalogue.read(section)
    assert list(entries) == section.ids
    for entry in entries.values():
        if entry.not_applicable is not None:
            assert not entry.guards, entry.id
            continue
        assert entry.guards, f"{entry.id} has no guard"
        assert catalogue.tests_by_id().get(entry.id), f"{entry.id} has no test"


@pytest.mark.parametrize("entry", catalogue.all_entries().values(), ids=lambda entry: entry.id)
def test_every_guard_can_be_taken_out(entry: catalogue.Entry) -> None:
    for guard in entry.guards:
        guards.mutated((catalogue.ROOT / guard.file).read_text(encoding="utf-8"), guard)
