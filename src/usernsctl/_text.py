"""Escape untrusted text for a terminal, and quote words for a shell.

Paths, arguments, bundles and runsc's messages may contain any characters: escape sequences that
rewrite the screen, newlines that begin a forged message, or bidirectional controls that reorder the
text. :func:`shown` therefore escapes all output of this package. un_make_printable() in
csrc/base/printable.c follows the same rule for programs in C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

# Characters that a shell does not treat specially, as in :mod:`shlex`.
_PLAIN = {*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-"}


def shown(text: str) -> str:
    r"""Return `text` as one line, with escapes such as ``\x1b`` for unprintable characters.

    str.isprintable() decides which characters are unprintable: control characters, line ends,
    bidirectional and invisible formatting, spaces except the ASCII space, and lone surrogates.
    Escaping the result again does not change it.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def shown_lines(text: str) -> str:
    """Escape the unprintable characters in each line of a text; keep the newlines."""
    return "\n".join(map(shown, text.split("\n")))


def command(words: Iterable[str]) -> str:
    """Return `words` as a shell command line, each word quoted by :func:`quoted`."""
    return " ".join(map(quoted, words))


def quoted(word: str) -> str:
    """Quote a word for a shell, as :func:`shlex.quote` does.

    A word with unprintable characters is quoted as ``$'...'`` (POSIX.1-2024, 2.2.4), so that the
    result is printable.
    """
    if word and not set(word) - _PLAIN:
        return word
    if word.isprintable():
        return "'" + word.replace("'", "'\"'\"'") + "'"
    return "$'" + "".join(map(_quoted_char, word)) + "'"


def operand(path: str) -> str:
    """Return a path, prefixed with ``./`` if commands would parse it as an option."""
    return f"./{path}" if path.startswith("-") else path


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _quoted_char(char: str) -> str:
    # Escape quotation marks and backslashes, too: in a shell that lacks $'...', an unescaped
    # quotation mark would end the quoted text.
    if char.isprintable() and char not in "\\'":
        return char
    # Write three octal digits, so that a digit after the escape is not parsed as a part of it.
    return "".join(f"\\{byte:03o}" for byte in os.fsencode(char))


def say(text: str) -> None:
    """Print a line on standard error, with unprintable characters escaped."""
    print(shown(text), file=sys.stderr)
