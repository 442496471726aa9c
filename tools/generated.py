"""Files that are made from others, and kept beside them: write one anew, or see if it is right."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def run(arguments: list[str], target: Path, document: Callable[[], str]) -> int:
    """Do what a tool is called for.

    :param arguments: of the tool: none, or ``--check``.
    :param target: the file.
    :param document: makes what it is to hold.
    :returns: the exit status: 1 if the file is out of date.
    """
    tool = Path(sys.argv[0]).name
    if arguments not in ([], ["--check"]):
        print(f"usage: {tool} [--check]", file=sys.stderr)
        return 2
    wanted = document()
    if not arguments:
        target.write_text(wanted, encoding="utf-8")
        return 0
    if target.exists() and target.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"{target.name} is out of date: run tools/{tool}", file=sys.stderr)
    return 1
