"""Tests that starting a command costs no more than documented.

The counts must not exceed bench/counts.json, and the system calls must match docs/prelude.md.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import counting
import pytest
from conftest import TESTS

pytestmark = [pytest.mark.each_user, pytest.mark.userns_requires("strace")]

COUNTS = TESTS.parent / "bench" / "counts.json"
PAGE = TESTS.parent / "docs" / "prelude.md"
ALLOWANCE = 0.03
ROW = re.compile(r"\| `(\w+)` \|(?: (\d+)(\+?) \|)? (.*) \|")


def table(heading: str) -> list[tuple[str, int, bool, str]]:
    """Return the rows of the table of system calls below `heading` in docs/prelude.md.

    A row has a system call, its count, whether the count may be higher, and the call's purpose.
    """
    (section,) = [part for part in PAGE.read_text().split("\n## ") if part.startswith(heading)]
    rows = [ROW.fullmatch(line) for line in section.splitlines()]
    found = [(row[1], int(row[2] or 1), bool(row[3]), row[4]) for row in rows if row]
    assert found
    is_root = os.geteuid() == 0
    return [row for row in found if not (is_root and row[3].startswith("not for uid 0"))]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return counting.tiny_program(tmp_path)


def test_the_page_lists_each_call_for_one_id(tiny: Path) -> None:
    assert [row[0] for row in table("One id")] == counting.trace_prelude(tiny, "-r")


@pytest.mark.userns_requires("subid")
def test_the_page_lists_each_call_for_all_ids(tiny: Path) -> None:
    counts = Counter(counting.trace_prelude(tiny, "--map-auto", "-r"))
    rows = table("All your ids")
    assert {row[0] for row in rows} >= counts.keys() - counting.WAITING
    for call, times, more, _ in rows:
        if call in counting.WAITING:
            continue
        assert counts[call] >= times if more else counts[call] == times, call


def test_the_page_lists_each_call_of_the_child(tiny: Path) -> None:
    make, once = counting.IN_PYTHON["un.run, fresh"]
    script = counting.SPAWNING.format(make=make, once=once)
    traced = counting.trace(sys.executable, "-c", script, "1", tiny, follow=True)
    (names,) = [names for names in traced.values() if "unshare" in names]
    assert [row[0] for row in table("A command in a child")] == names[: names.index("exit_group")]


@pytest.mark.userns_requires("valgrind")
@pytest.mark.skipif(not COUNTS.is_file(), reason=f"there is no {COUNTS}: only the tests are here")
def test_counted_calls_are_as_recorded(tmp_path: Path) -> None:
    recorded = json.loads(COUNTS.read_text())[counting.kind_of_user()]
    counts = counting.count(tmp_path)
    assert counts.keys() <= recorded.keys(), "something new is counted: make counts"
    more = changed(counts, recorded, 1)
    assert not more, f"{more}: it costs more; is it worth that? Then call make counts"
    less = changed(counts, recorded, -1)
    assert not less, f"{less}: it costs less; call make counts, so that it stays so"


def changed(counts: dict[str, int], recorded: dict[str, int], sign: int) -> dict[str, str]:
    """Return the counts that exceed the recorded counts by more than ALLOWANCE.

    With sign -1, return the counts that are lower than the recorded counts by more than ALLOWANCE.
    """
    return {
        name: f"{now}, was {recorded[name]}"
        for name, now in counts.items()
        if sign * (now - recorded[name]) > recorded[name] * ALLOWANCE
    }
