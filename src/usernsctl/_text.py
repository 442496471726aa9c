"""Text from others, fit for a terminal, and names from others, fit to be pasted into a shell.

Paths, arguments, bundles and what runsc says may hold anything: an escape sequence that rewrites
what is on the screen, a line end that begins a message of its own, a control that turns the order
of the letters around. Whatever this package prints goes through :func:`shown`. A program in C has
the same rule in un_make_printable() of csrc/base/printable.c.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

# What no shell takes for anything else, as :mod:`shlex` has it.
_PLAIN = {*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-"}


def shown(text: str) -> str:
    r"""`text` as one line in which every character only stands for itself.

    What is not printable (str.isprintable(): controls, line ends, bidirectional and invisible
    formatting, spaces of other widths, lone surrogates) becomes an escape such as ``\x1b``.
    A text that was made fit once stays as it is.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def shown_lines(text: str) -> str:
    """The same for a text of our own that has several lines."""
    return "\n".join(map(shown, text.split("\n")))


def command(words: Iterable[str]) -> str:
    """The words of a command, to be pasted into a shell.

    Each is quoted as :func:`shlex.quote` does, or as ``$'...'`` (POSIX.1-2024, 2.2.4) if it has
    what is not printable, so that the line can be shown as it is.
    """
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """One word of a :func:`command`."""
    if word and not set(word) - _PLAIN:
        return word
    if word.isprintable():
        return "'" + word.replace("'", "'\"'\"'") + "'"
    return "$'" + "".join(map(_quoted_char, word)) + "'"


def operand(path: str) -> str:
    """A path that no command takes for an option."""
    return f"./{path}" if path.startswith("-") else path


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _quoted_char(char: str) -> str:
    # A shell that does not know $'...' takes it for '...', where only a quote could end it.
    if char.isprintable() and char not in "\\'":
        return char
    # Three digits always, so that what follows is not taken for one more.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(char))


def say(text: str) -> None:
    """Print one line on standard error, whatever others have put into it."""
    print(shown(text), file=sys.stderr)
