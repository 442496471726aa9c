"""``usernsctl exec``: the native prelude, for whoever has only the Python command in mind."""

from __future__ import annotations

import os
import sysconfig

import click

from usernsctl.errors import CommandError

PRELUDE = "usernsctl-exec"


def prelude_path() -> str:
    """Where the native prelude is installed.

    :raises CommandError: it is not there; the installation is incomplete.
    """
    path = os.path.join(sysconfig.get_path("scripts"), PRELUDE)
    if not os.access(path, os.X_OK):
        raise CommandError(
            f"{path} is missing: it is installed together with this package",
            step="exec",
            filename=path,
            remedy="pip install --force-reinstall usernsctl",
        )
    return path


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def exec_command(words: tuple[str, ...]) -> None:
    """Execute a command in a new user namespace (usernsctl-exec; see its --help)."""
    path = prelude_path()
    os.execv(path, [PRELUDE, *words])
