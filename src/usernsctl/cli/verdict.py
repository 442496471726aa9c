"""What the commands that end with a verdict have in common: ``doctor`` and ``explain``."""

from __future__ import annotations

import io
import sys

import click

from usernsctl.cli.usage import show_usage

#: The exit status of a wrong call, since 1 is a verdict.
WRONG_USAGE = 2


class VerdictCommand(click.Command):
    """A command whose wrong usage ends with :data:`WRONG_USAGE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of a call."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            show_usage(error)
            raise click.exceptions.Exit(WRONG_USAGE) from error


def tolerate_any_text() -> None:
    """Paths and locales may be such that something can't be encoded: show its code then."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
