"""How a wrong call is answered, and by which word that was probably meant."""

from __future__ import annotations

import difflib
import io
import sys

import click

from usernsctl._text import shown_lines


def show_usage(error: click.ClickException) -> None:
    """Print click's own message about a wrong call."""
    text = io.StringIO()
    error.show(file=text)
    print(shown_lines(text.getvalue()), end="", file=sys.stderr)


class Group(click.Group):
    """A group that names the command that a mistyped word is likest to."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that a word names."""
        name = args[0]
        # What looks like an option is told as one.
        if name.startswith("-") or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        known = self.list_commands(ctx)
        near = [word for word in known if name and word.startswith(name)]
        near = near or difflib.get_close_matches(name.lower(), known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise click.UsageError(f"there is no command {name!r}.{meant}", ctx)
