"""Counts of an attacker's attempts and successes.

`pytest -k hostile` tries each attack only a few times, so that `make test` can include the attacks.
`make hostile` (USERNSCTL_HOSTILE=full) tries each attack often enough to win a race.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

FULL = os.environ.get("USERNSCTL_HOSTILE") == "full"


class Tally:
    """Counter of attempts and successes. A test fails after a success, or without attempts."""

    def __init__(self) -> None:
        self.tries = 0
        self.successes: list[str] = []

    @staticmethod
    def rounds(short: int, full: int) -> int:
        """Return the number of attempts: `full` with `make hostile`, otherwise `short`."""
        return full if FULL else short

    def tried(self, count: int = 1) -> None:
        self.tries += count

    def succeeded(self, how: str) -> None:
        """Record a success of the attacker; `how` describes it."""
        self.successes.append(how)


@pytest.fixture
def tally(record_property: pytest.RecordProperty) -> Iterator[Tally]:
    counted = Tally()
    yield counted
    record_property("hostile", f"{counted.tries} tries, {len(counted.successes)} successes")
    assert not counted.successes, f"the attacker got: {counted.successes[:5]}"
    assert counted.tries, "nothing was tried"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        f"{report.nodeid}: {value}"
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, value in report.user_properties
        if name == "hostile"
    ]
    if lines:
        terminalreporter.section("attacks")
        for line in sorted(lines):
            terminalreporter.write_line(line)
