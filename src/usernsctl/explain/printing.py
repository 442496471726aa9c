"""How an error is printed: what failed, why, and what mends it; and how prose is."""

from __future__ import annotations

import sys

from usernsctl._text import say, shown, shown_lines
from usernsctl.errors import UsernsError

#: How many columns a line of prose has at most. What is to be copied has as many as it takes.
WIDTH = 80


def wrapped(text: str, indent: str) -> list[str]:
    """A text, fit for a terminal, in lines of at most :data:`WIDTH` columns.

    :param indent: what each line but the first begins with.
    """
    # Whoever prints an error has no use for it.
    import textwrap

    return textwrap.wrap(shown(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def print_error(error: UsernsError) -> None:
    """Say on standard error what failed, why, and what mends it: a line each."""
    say(f"usernsctl: {error}")
    # Imported here, to keep --help fast.
    from usernsctl import _core

    known = _core.cause(error.cause)
    if known is not None:
        say(f"  why: {known.why} [{error.cause}]")
    elif error.cause not in (None, "usage"):  # the core's word for an option that there is not
        say(f"  cause: {error.cause}")
    # Of several lines are those of the catalogue; in ours, no name brings a line end with it.
    if remedy := error.remedy or (known.remedy if known else None):
        print("  remedy: " + shown_lines(remedy).replace("\n", "\n    "), file=sys.stderr)
