"""What /proc tells the tests of other processes."""

from __future__ import annotations

from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Of all its threads: runsc has many, and any of them may have started a child."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in lists for word in file.read_text().split()]
