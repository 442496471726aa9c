"""``usernsctl exec``: the native prelude, for whoever has only the Python command in mind."""

from __future__ import annotations

import os

import click

from usernsctl import _programs
from usernsctl._system.handover import restore_signals
from usernsctl.cli import caller


@click.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    short_help="Execute a command in a new user namespace.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def exec_command(words: tuple[str, ...]) -> None:
    """Execute a command in a new user namespace (usernsctl-exec; see its --help)."""
    name = "usernsctl-exec"
    program = _programs.find(name, "makes the namespaces")
    restore_signals()
    os.execve(program, [name, *words], caller.environ())
