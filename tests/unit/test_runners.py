"""Tests of the scripts in tools/ that start test programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import capture

TOOLS = Path(__file__).parents[2] / "tools"
# Signals that are ignored when the tested script starts: USR1, and those that nohup(1), background
# jobs and Python services ignore.
IGNORED = "HUP INT QUIT PIPE XFSZ USR1"
SHOW = "sed -n 's/^SigIgn:\\t//p' /proc/self/status"


@pytest.mark.parametrize(
    "runner",
    ["default-signals sh -c", 'to-the-end sh -c \'touch "$USERNSCTL_SESSION_ENDED"; eval "$0"\''],
)
def test_runners_reset_ignored_signals(runner: str) -> None:
    script = f"trap '' {IGNORED}; {SHOW}; {TOOLS}/{runner} \"$1\""
    words = ["sh", "-c", script, "sh", SHOW]
    done = capture(words)
    assert (done.returncode, done.stderr) == (0, "")
    before, after = (int(line, 16) for line in done.stdout.split())
    assert before
    assert after == 0
