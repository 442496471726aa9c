"""The command line: ``usernsctl VERB ...``."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

import click

from usernsctl._text import say
from usernsctl.cli.usage import show_usage
from usernsctl.errors import UsernsError
from usernsctl.explain.printing import print_error

#: Where each verb's click command is. They are imported when they are called: a payload should not
#: wait for verbs that it does not use.
_VERBS = {
    "run": "usernsctl.cli.run:run_command",
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


class _Verbs(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="usernsctl", prog_name="usernsctl")
@click.option("--environ-fd", type=click.IntRange(3), hidden=True)
@click.pass_context
def usernsctl(context: click.Context, environ_fd: int | None) -> None:
    """Run programs in user namespaces and in gVisor, without root."""
    if environ_fd is not None:
        from usernsctl.cli import caller

        context.obj = caller.read(environ_fd)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status, 125 where the failure is ours."""
    try:
        status = usernsctl.main(argv, prog_name="usernsctl", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except UsernsError as error:
        print_error(error)
        return error.exit_status
    except click.ClickException as error:
        show_usage(error)
        return 125
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _forget_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _forget_output()
        say(f"usernsctl: {error}")
        return 125


def _forget_output() -> None:
    """What nobody can take any more would be flushed once more, and fail once more, at exit."""
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 1)
