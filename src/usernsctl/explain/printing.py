"""Wrapping of text at a maximum line width, for doctor and explain."""

from __future__ import annotations

import textwrap

from usernsctl._text import shown

#: The maximum width of a line of prose, in columns. Commands to copy are not wrapped.
WIDTH = 80


def wrapped(text: str, indent: str) -> list[str]:
    """Return a text, escaped for a terminal, in lines of at most :data:`WIDTH` columns.

    :param indent: the indentation of each line but the first.
    """
    return textwrap.wrap(shown(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False)
