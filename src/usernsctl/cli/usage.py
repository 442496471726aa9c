"""How a wrong call is answered."""

from __future__ import annotations

import io
import sys

import click

from usernsctl._text import shown_lines


def show_usage(error: click.ClickException) -> None:
    """Print click's own message about a wrong call."""
    text = io.StringIO()
    error.show(file=text)
    print(shown_lines(text.getvalue()), end="", file=sys.stderr)
