"""What there is to draw on: a terminal or not, which characters, how wide."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import locale
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

from usernsctl._text import shown

WIDTH = 80


def can_draw() -> bool:
    """Whether standard output is a terminal, and rich is installed, which is an extra."""
    # Closed output is None in Python.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and importlib.util.find_spec("rich") is not None


def tolerate_any_text() -> None:
    """Have standard output show the code of what can't be encoded, as in a path."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def has_lines() -> bool:
    """Whether output may hold what ASCII has not: as the locale says, ``C`` for one says no."""
    encoding = getattr(sys.stdout, "encoding", None) or ""
    codeset = locale.nl_langinfo(locale.CODESET)
    return {encoding.lower(), codeset.lower()} == {"utf-8"}


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table.

    A row is one line. On a terminal, the words of its last column go on below it where they would
    not fit into 80 columns.
    """
    *widths, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    indent = "  ".join(" " * width for width in [*widths, 0])
    is_cut = sys.stdout is not None and sys.stdout.isatty()
    for row in rows:
        line = shown("  ".join(map(str.ljust, row, [*widths, 0])).rstrip())
        if is_cut and len(line) > WIDTH and len(indent) < WIDTH // 2 + 20:
            begin = line[: len(indent)]
            yield from textwrap.wrap(
                line[len(indent) :],
                WIDTH,
                initial_indent=begin,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
        else:
            yield line


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A line that tells what is being done; it is gone when that has ended.

    It is on standard error, and only where that is a terminal which can take a line back: not a
    pipe, and not one that TERM calls dumb. What it is called with takes the place of the line.
    """
    is_shown = (
        sys.stderr is not None
        and sys.stderr.isatty()
        and os.environ.get("TERM", "dumb") not in ("", "dumb")
    )

    def tell(text: str) -> None:
        if not is_shown:
            return
        # What is too wide would go on in a second line, which would stay. A terminal may be gone.
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH
            sys.stderr.write(f"\r\x1b[K{shown(text)[: columns - 1]}")
            sys.stderr.flush()

    try:
        yield tell
    finally:
        tell("")
