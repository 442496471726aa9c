"""What /proc tells the tests of other processes."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Of all its threads: runsc has many, and any of them may have started a child."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in lists for word in file.read_text().split()]


def processes_with(word: str) -> list[str]:
    """The command lines that have `word` in them, which should be in those of one test only."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line:
                found.append(line)
    return found


def wait_until_gone(word: str, seconds: float) -> list[str]:
    """The processes that :func:`processes_with` still finds after `seconds`; none, as a rule."""
    deadline = time.monotonic() + seconds
    while (found := processes_with(word)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def status_of(pid: int) -> dict[str, str]:
    """proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
