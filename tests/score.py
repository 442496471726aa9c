"""Counts of right and wrong error messages in misconfigured environments.

The counts are printed at the end of a pytest session with tests/environments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

_PROPERTY = "trials"


@pytest.fixture
def score(record_property: pytest.RecordProperty) -> Iterator[Counter[str]]:
    """Yield a counter of "right" and "wrong" trials, and of "healed" environments.

    Other names that a test counts are printed after these three.
    """
    counted: Counter[str] = Counter()
    yield counted
    record_property(_PROPERTY, dict(counted))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    total: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "teardown":
                for name, value in report.user_properties:
                    if name == _PROPERTY:
                        total.update(value)  # type: ignore[arg-type]
    if total:
        terminalreporter.section("broken environments")
        right, wrong, healed = (total.pop(name, 0) for name in ("right", "wrong", "healed"))
        terminalreporter.write_line(f"{right} of {right + wrong} trials are right")
        terminalreporter.write_line(f"{healed} environments are mended by what was typed")
        for name, count in sorted(total.items()):
            terminalreporter.write_line(f"{count} {name}")
