"""The values of options, from text to what the package works with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from usernsctl.errors import UsernsError


def each(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Make a click callback of a function that reads one value.

    It applies to the value of an option, or to each one of an option that may be repeated. What it
    has against a value (ValueError) is told as click does.
    """

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(parse(one) for one in value)
            return None if value is None else parse(value)
        except ValueError as error:
            if isinstance(error, UsernsError):
                raise
            raise click.BadParameter(str(error)) from None

    return callback
