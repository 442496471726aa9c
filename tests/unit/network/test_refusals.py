"""Tests of the table in which a proxy counts refused connections."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from usernsctl.network import refusals
from usernsctl.network.refusals import MAX_TEXTS, Refusal, Table


@pytest.fixture
def fd() -> Iterator[int]:
    fd = refusals.create()
    yield fd
    os.close(fd)


def test_empty_table_has_no_refusals(fd: int) -> None:
    assert refusals.total(fd) == 0
    assert list(refusals.listed(fd)) == []


def test_equal_texts_are_counted_in_one_row(fd: int) -> None:
    table = Table(fd)
    assert [table.add(text) for text in ("a", "b", "a", "a")] == [True, True, False, False]
    assert refusals.total(fd) == 4
    assert list(refusals.listed(fd)) == [Refusal("a", 3), Refusal("b", 1)]


def test_texts_beyond_the_table_are_only_counted(fd: int) -> None:
    table = Table(fd)
    new = [table.add(str(number)) for number in range(MAX_TEXTS + 10)]
    assert new == [True] * MAX_TEXTS + [False] * 10
    assert refusals.total(fd) == MAX_TEXTS + 10
    assert [each.text for each in refusals.listed(fd)] == [str(each) for each in range(MAX_TEXTS)]


def test_long_text_is_truncated(fd: int) -> None:
    Table(fd).add("ä" * 1000)
    (only,) = refusals.listed(fd)
    assert only.text == "ä" * 252
    assert only.count == 1


def test_proxy_can_not_shorten_its_table(fd: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
