"""The search of `tune`: the largest value that works is found, in few loads, whatever the estimate was."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from ollamux.domain.tune import Search, grid, largest

COUNTS = st.integers(1, 5000)


def run(search: Search, works: Callable[[int], bool]) -> Search:
    while (index := search.next) is not None:
        assert 0 <= index < search.count
        assert index not in dict(search.tried), "a value is tried once"
        search = search.told(index, works(index))
        assert len(search.tried) <= search.count
    return search


@given(COUNTS, st.data())
def test_the_largest_that_works_is_found_in_few_loads(count: int, data: st.DataObject) -> None:
    truth, guess = data.draw(st.integers(-1, count - 1)), data.draw(st.integers(-10, count + 10))

    search = run(Search(count=count, guess=guess), lambda index: index <= truth)

    assert search.best == (None if truth < 0 else truth)
    assert len(search.tried) <= 1.5 * math.log2(count) + 4.5


@given(COUNTS, st.data())
def test_a_good_guess_takes_two_loads_and_a_near_one_few(count: int, data: st.DataObject) -> None:
    truth = data.draw(st.integers(0, count - 1))
    off = data.draw(st.integers(-64, 64))
    guess = min(max(truth + off, 0), count - 1)

    search = run(Search(count=count, guess=guess), lambda index: index <= truth)

    away = abs(guess - truth)
    assert len(search.tried) <= (2 if away == 0 else 1.5 * math.log2(away) + 5)


@given(COUNTS, st.data())
def test_a_guess_that_measurements_set_right_takes_few_loads(count: int, data: st.DataObject) -> None:
    truth, guess = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 1))
    search = Search(count=count, guess=guess)
    while (index := search.next) is not None:
        search = search.told(index, index <= truth, guess=truth)

    assert search.best == truth
    assert len(search.tried) <= 4


@given(COUNTS, st.data())
def test_guesses_that_lie_cost_only_so_many_loads_more(count: int, data: st.DataObject) -> None:
    truth = data.draw(st.integers(-1, count - 1))
    lies = iter(data.draw(st.lists(st.none() | st.integers(-5, 5005), min_size=60, max_size=60)))
    search = Search(count=count, guess=next(lies) or 0)
    while (index := search.next) is not None:
        assert index not in dict(search.tried)
        search = search.told(index, index <= truth, guess=next(lies))

    assert search.best == (None if truth < 0 else truth)
    assert len(search.tried) <= 1.5 * math.log2(count) + 14


@given(COUNTS, st.integers(0, 5000), st.lists(st.booleans(), min_size=40, max_size=40))
def test_what_is_not_monotone_or_changes_its_mind_ends_too(count: int, guess: int, outcomes: list[bool]) -> None:
    left = iter(outcomes)

    search = run(Search(count=count, guess=guess), lambda index: next(left))

    assert search.best is None or dict(search.tried)[search.best]
    low, high = search.bounds
    assert low + 1 == high


def test_where_nothing_works_and_where_everything_does() -> None:
    assert run(Search(count=33, guess=20), lambda index: False).best is None
    assert run(Search(count=33, guess=32), lambda index: True).tried == ((32, True),)


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 300))
def test_the_values_to_choose_from_have_the_largest_among_them(least: int, more: int, step: int) -> None:
    values = grid(least, least + more, step)

    assert values[0] == least and values[-1] == least + more
    assert all(0 < b - a <= step for a, b in itertools.pairwise(values))


@given(st.integers(1, 500), st.integers(-1, 499))
def test_the_guess_is_the_largest_that_fits(count: int, truth: int) -> None:
    values = tuple(range(count))
    assert largest(values, lambda value: value <= truth) == min(max(truth, 0), count - 1)
