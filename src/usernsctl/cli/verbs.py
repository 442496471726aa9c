"""The verbs, as click knows them."""

from __future__ import annotations

import importlib

import click

from usernsctl import _interrupts
from usernsctl.cli.usage import Group, show_usage

#: Where each verb's click command is. They are imported when they are called: a payload should not
#: wait for verbs that it does not use.
_VERBS = {
    "run": "usernsctl.cli.run_click:run_command",
    "freeze": "usernsctl.cli.freeze:freeze_command",
    "exec": "usernsctl.cli.exec:exec_command",
    "bundle": "usernsctl.cli.bundle:bundle_group",
    "ns": "usernsctl.cli.ns:ns_group",
    "template": "usernsctl.cli.template:template_group",
    "plan": "usernsctl.cli.plan:plan_command",
    "doctor": "usernsctl.cli.doctor:doctor_command",
    "explain": "usernsctl.cli.explain:explain_command",
    "seccomp-profile": "usernsctl.cli.profiles:seccomp_command",
    "apparmor-profile": "usernsctl.cli.profiles:apparmor_command",
    "docker-args": "usernsctl.cli.profiles:docker_command",
    "completion": "usernsctl.cli.completion.command:completion_command",
}


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

        try:
            context.obj = caller.read(environ_fd)
        except OSError as error:
            raise click.UsageError(f"--environ-fd {environ_fd}: {error.strerror}") from error


def call(argv: list[str]) -> int:
    """Run a command line and return its exit status; 125 for one that makes no sense.

    Not by click's own ``main()``, for which a closed pipe is exit status 1.

    :param argv: its words without the program's name.
    :raises KeyboardInterrupt: it was interrupted.
    """
    try:
        with usernsctl.make_context("usernsctl", argv) as context:
            status = usernsctl.invoke(context)
    except click.exceptions.Exit as ended:
        status = ended.exit_code
    except click.Abort as error:
        raise KeyboardInterrupt from error
    except click.ClickException as error:
        show_usage(error)
        return 125
    return status if isinstance(status, int) else 0
