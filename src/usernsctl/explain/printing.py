"""Printing of errors (what failed, why, and the remedy) and of prose."""

from __future__ import annotations

import sys

from usernsctl._text import say, shown, shown_lines
from usernsctl.errors import UsernsError

#: The maximum width of a line of prose, in columns. Commands to copy are not wrapped.
WIDTH = 80


def wrapped(text: str, indent: str) -> list[str]:
    """Return a text, escaped for a terminal, in lines of at most :data:`WIDTH` columns.

    :param indent: the beginning of each line but the first.
    """
    # Imported here, since print_error() does not need it.
    import textwrap

    return textwrap.wrap(shown(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def print_error(error: UsernsError) -> None:
    """Print on standard error what failed, why, and the remedy."""
    say(f"usernsctl: {error}")
    # Imported here, to keep --help fast.
    from usernsctl import _core

    known = _core.cause(error.cause)
    if known is not None:
        say(f"  why: {known.why} [{error.cause}]")
    elif error.cause not in (None, "usage"):  # "usage": an unknown option
        say(f"  cause: {error.cause}")
    # Only remedies of the catalogue have several lines: names in other remedies are escaped.
    if remedy := error.remedy or (known.remedy if known else None):
        lines = shown_lines(remedy).split("\n")
        print("  remedy:", *lines, sep=" " if len(lines) == 1 else "\n    ", file=sys.stderr)
