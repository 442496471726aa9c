"""Command line of tools that write a generated file, or check whether it is up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def run(arguments: list[str], target: Path, document: Callable[[], str]) -> int:
    """Write or check a generated file.

    :param arguments: the arguments of the tool: none, or ``--check``.
    :param target: the path of the generated file.
    :param document: a function that returns the content of the file.
    :returns: the exit status, which is 1 if the file is out of date.
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
