"""Tests of id maps from arbitrary input: the plan has the same extents, or MapError is raised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usernsctl import Extent, IdMap, MapError, PlanError, plan

LAST = 2**32 - 1
NUMBERS = st.one_of(
    st.integers(0, 20), st.integers(0, LAST), st.sampled_from([0, 1, LAST - 1, LAST, LAST + 1])
)
EXTENTS = st.tuples(NUMBERS, NUMBERS, NUMBERS)
# Text that is an extent, or almost one.
ALMOST_EXTENTS = st.one_of(
    st.text(alphabet="0123456789:+- \t\n\0xa\u0661", max_size=40),
    st.lists(st.one_of(NUMBERS.map(str), st.text(max_size=3)), max_size=5).map(":".join),
    st.text(),
)

# No deadline: a shared host may be suspended for longer than any deadline.
without_deadline = settings(deadline=None, max_examples=300)


def is_extent(inside: int, outside: int, count: int) -> bool:
    """Return whether three numbers are a valid extent.

    According to user_namespaces(7), the count is at least 1, and no id is above 4294967294.
    """
    return count >= 1 and inside + count <= LAST and outside + count <= LAST


@without_deadline
@given(EXTENTS)
def test_any_numbers_are_parsed_unchanged_or_refused(numbers: tuple[int, int, int]) -> None:
    text = ":".join(map(str, numbers))
    try:
        extent = Extent.parse(text)
    except MapError as error:
        assert not is_extent(*numbers)
        assert error.cause == "map-invalid"
    else:
        assert is_extent(*numbers)
        assert tuple(extent) == numbers
        assert str(extent) == text


@without_deadline
@given(ALMOST_EXTENTS)
def test_any_text_is_an_extent_or_raises_a_one_line_error(text: str) -> None:
    well_formed = re.fullmatch(r"([0-9]+):([0-9]+):([0-9]+)", text)
    try:
        extent = Extent.parse(text)
    except MapError as error:
        assert not well_formed or not is_extent(*map(int, well_formed.groups()))
        assert str(error).isprintable()
    else:
        assert well_formed
        assert tuple(extent) == tuple(map(int, well_formed.groups()))


def overlap(extents: list[tuple[int, int, int]], side: int) -> bool:
    ranges = sorted((extent[side], extent[2]) for extent in extents)
    return any(a + n > b for (a, n), (b, _) in pairwise(ranges))


def merge_adjacent(extents: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    """Merge adjacent extents: a plan splits extents where the parent's map is split."""
    result: list[tuple[int, ...]] = []
    for inside, outside, count in extents:
        if result:
            before_inside, before_outside, before = result[-1]
            if (before_inside + before, before_outside + before) == (inside, outside):
                result[-1] = (before_inside, before_outside, before + count)
                continue
        result.append((inside, outside, count))
    return result


@pytest.mark.each_user
@without_deadline
@given(st.lists(EXTENTS, max_size=8), st.lists(EXTENTS, max_size=8))
def test_any_map_is_planned_unchanged_or_refused(
    uids: list[tuple[int, int, int]], gids: list[tuple[int, int, int]]
) -> None:
    sound = all(
        all(is_extent(*extent) for extent in extents)
        and not overlap(extents, 0)
        and not overlap(extents, 1)
        for extents in (uids, gids)
    )
    try:
        planned = plan(IdMap.extents(uids, gids))
    except MapError as error:
        assert not sound
        assert error.cause == "map-invalid"
    except PlanError as error:
        # Even a valid map raises PlanError if only root may write it. Check that the error has a
        # cause.
        assert error.cause
    else:
        assert sound
        assert merge_adjacent(planned.uid) == merge_adjacent(uids)
        assert merge_adjacent(planned.gid) == merge_adjacent(gids)


@pytest.mark.each_user
@without_deadline
@given(st.lists(st.tuples(*[st.integers(-(2**70), 2**70)] * 3), max_size=3))
def test_huge_numbers_in_a_map_do_not_crash(extents: list[tuple[int, int, int]]) -> None:
    try:
        planned = plan(IdMap.extents(extents, []))
    except (MapError, PlanError) as error:
        assert error.cause
    else:
        assert merge_adjacent(planned.uid) == merge_adjacent(extents)
