"""How an error is printed: what failed, why, and what mends it."""

from __future__ import annotations

import sys

from usernsctl._text import say, shown_lines
from usernsctl.errors import UsernsError


def print_error(error: UsernsError) -> None:
    """Say on standard error what failed, why, and what mends it: a line each."""
    say(f"usernsctl: {error}")
    why, known_remedy = _known(error.cause)
    if why:
        say(f"  why: {why} [{error.cause}]")
    elif error.cause not in (None, "usage"):  # the core's word for an option that there is not
        say(f"  cause: {error.cause}")
    # Of several lines are those of the catalogue; in ours, no name brings a line end with it.
    if remedy := error.remedy or known_remedy:
        print("  remedy: " + shown_lines(remedy).replace("\n", "\n    "), file=sys.stderr)


def _known(cause: str | None) -> tuple[str | None, str | None]:
    """What is known of a cause: why, and what mends it."""
    # These are imported here to keep --help fast; the core's own texts need no files to be read.
    from usernsctl import _core

    if cause is None:
        return None, None
    if known := _core.cause(cause):
        return known.why, known.remedy
    from usernsctl.explain.catalogue import catalogue

    entry = catalogue().get(cause)
    if entry is None:
        return None, None
    return entry.why, entry.remedies["host"]
