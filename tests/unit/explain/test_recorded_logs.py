"""Tests that `usernsctl explain` finds the causes of failed runs in recorded logs.

`logs/RELEASE/CAUSE` contains the logs of runsc RELEASE for a failure with the cause CAUSE.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from usernsctl.explain.explanation import explain_failures
from usernsctl.explain.logs import failures

LOGS = Path(__file__).parent / "logs"
RECORDED = sorted(path for path in LOGS.glob("*/*"))

# Logs that contain a misleading message of runsc, with the wrong cause that explain names first for
# it. The directory of each log has the name of the true cause, which explain names later.
LATER = {"20240729/bundle-no-mappings": "false-max-userns-hint"}


@pytest.mark.parametrize("directory", RECORDED, ids=lambda path: str(path.relative_to(LOGS)))
def test_cause_of_a_recorded_log_comes_first(directory: Path) -> None:
    found = failures(directory)
    causes = [candidate.cause.id for candidate in explain_failures(found).candidates]
    first = LATER.get(str(directory.relative_to(LOGS)), directory.name)
    assert causes[0] == first, [failure.message for failure in found]
    assert directory.name in causes


def test_recorded_logs_cover_old_and_new_releases() -> None:
    both = [{path.name for path in release.iterdir()} for release in sorted(LOGS.iterdir())]
    assert len(both) == 2
    assert len(both[0] & both[1]) >= 5
