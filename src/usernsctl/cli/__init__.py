"""The command line: ``usernsctl VERB ...``."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from usernsctl import _interrupts
from usernsctl._text import say
from usernsctl.cli.usage import Group, show_usage
from usernsctl.errors import UsernsError
from usernsctl.explain.printing import print_error

#: Where each verb's click command is. They are imported when they are called: a payload should not
#: wait for verbs that it does not use.
_VERBS = {
    "run": "usernsctl.cli.run:run_command",
    "freeze": "usernsctl.cli.freeze:freeze_command",
    "exec": "usernsctl.cli.exec:exec_command",
    "bundle": "usernsctl.cli.bundle:bundle_group",
    "ns": "usernsctl.cli.ns:ns_group",
    "plan": "usernsctl.cli.plan:plan_command",
    "doctor": "usernsctl.cli.doctor:doctor_command",
    "explain": "usernsctl.cli.explain:explain_command",
    "seccomp-profile": "usernsctl.cli.profiles:seccomp_command",
    "apparmor-profile": "usernsctl.cli.profiles:apparmor_command",
    "docker-args": "usernsctl.cli.profiles:docker_command",
}


#: What a shell asks for completions by (click's documentation, "Shell Completion").
_COMPLETE = "_USERNSCTL_COMPLETE"


class _Verbs(Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        _interrupts.raise_again()
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="usernsctl", prog_name="usernsctl")
@click.option("--environ-fd", type=click.IntRange(3), hidden=True)
@click.pass_context
def usernsctl(context: click.Context, environ_fd: int | None) -> None:
    """Run programs in user namespaces and in gVisor, without root."""
    if environ_fd is not None:
        from usernsctl.cli import caller

        context.obj = caller.read(environ_fd)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, 125 where the failure is ours.

    :param argv: its words without the program's name; ``None`` takes those of this process.
    """
    try:
        return _answer(sys.argv[1:] if argv is None else list(argv))
    except (click.Abort, KeyboardInterrupt):
        return _interrupts.STATUS
    except BrokenPipeError:
        _forget(1)
        _forget(2)
        return 128 + signal.SIGPIPE
    except OSError as error:
        where = error.filename or _unwritten()
        _forget(1)
        with contextlib.suppress(OSError):
            say(f"usernsctl: {where}: {error.strerror}" if where else f"usernsctl: {error}")
        return 125


def _answer(argv: list[str]) -> int:
    try:
        return _call(argv)
    except UsernsError as error:
        print_error(error)
        return error.exit_status
    except click.ClickException as error:
        show_usage(error)
        return 125


def _call(argv: list[str]) -> int:
    """Not by click's own ``main()``, for which a closed pipe is exit status 1."""
    if instruction := os.environ.get(_COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(usernsctl, {}, "usernsctl", _COMPLETE, instruction)
    try:
        with usernsctl.make_context("usernsctl", argv) as context:
            status = usernsctl.invoke(context)
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    # Standard output may be closed, which print() bears.
    print(end="", flush=True)
    return status if isinstance(status, int) else 0


def _unwritten() -> str | None:
    """Standard output, if that is what could not be written."""
    try:
        print(end="", flush=True)
    except OSError:
        return "standard output"
    return None


def _forget(fd: int) -> None:
    """What nobody can take any more would be flushed once more, and fail once more, at exit."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), fd)
