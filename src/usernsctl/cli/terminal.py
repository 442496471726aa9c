"""Terminal output: tables, progress lines, and checks of what the terminal can display."""

from __future__ import annotations

import contextlib
import importlib.util
import locale
import os
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence

from usernsctl._text import shown

WIDTH = 80


def can_draw() -> bool:
    """Return whether standard output is a terminal and the optional package rich is installed."""
    # sys.stdout is None if standard output is closed.
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return is_terminal and importlib.util.find_spec("rich") is not None


def is_utf8() -> bool:
    """Return whether both standard output and the locale use UTF-8.

    In the locale ``C``, only standard output may do so (PEP 540).
    """
    encoding = getattr(sys.stdout, "encoding", None) or ""
    codeset = locale.nl_langinfo(locale.CODESET)
    return {encoding.lower(), codeset.lower()} == {"utf-8"}


def age(seconds: float) -> str:
    """Return a duration in its largest unit, rounded down, such as ``3m``."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, one for each row.

    On a terminal, the last column is wrapped at 80 columns.
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
    """Yield a function that prints a progress line on standard error in place of the last line.

    At the end, the last line is erased. The function prints nothing if standard error is not a
    terminal, or is a terminal that can't erase a line (TERM is ``dumb``).
    """
    is_shown = (
        sys.stderr is not None
        and sys.stderr.isatty()
        and os.environ.get("TERM", "dumb") not in ("", "dumb")
    )

    def report(text: str) -> None:
        if not is_shown:
            return
        # Cut the text to one line, because a second line could not be erased. Ignore an OSError,
        # which means that the terminal was closed.
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or WIDTH
            sys.stderr.write(f"\r\x1b[K{shown(text)[: columns - 1]}")
            sys.stderr.flush()

    try:
        yield report
    finally:
        report("")
