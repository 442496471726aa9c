"""``usernsctl run`` as click knows it: for ``--help``, and to say what is wrong with a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from usernsctl.cli import caller, run, values
from usernsctl.gvisor.options import Option

_F = TypeVar("_F", bound=Callable[..., Any])


class _GroupedOption(click.Option):
    """An option that --help lists under a heading."""

    def __init__(self, *args: Any, heading: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


# What docker run calls what is another option here: whoever knows that one types it first.
_DOCKER_OPTIONS = {
    "-e": "--env",
    "-v": "--bind",
    "--volume": "--bind",
    "--mount": "--bind",
    "-w": "--wd",
    "--workdir": "--wd",
    "-u": "--user",
    "--net": "--network",
    "-i": "--terminal",
    "-t": "--terminal",
    "--ulimit": "--rlimit",
}


class GroupedCommand(click.Command):
    """A command whose options are listed under headings."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; of an option of docker's, say what it is called here."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            ours = _DOCKER_OPTIONS.get(name)
            for option in self.get_params(ctx):
                if ours in option.opts:
                    use = f"{ours} {option.metavar or ''}".rstrip()
                    raise click.UsageError(
                        f"there is no option {name!r}. Use {use}.", ctx
                    ) from error
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the options under their headings."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                heading = getattr(parameter, "heading", "Other")
                headings.setdefault(heading, []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def with_options(options: Iterable[tuple[str, Option, Any]]) -> Callable[[_F], _F]:
    """Give a command options, as :func:`usernsctl.cli.run.options` has them."""

    def give(command: _F) -> _F:
        for name, option, default in reversed(list(options)):
            command = _option(name, option, default)(command)
        return command

    return give


def check_combination(given: dict[str, Any]) -> None:
    """Look whether options go together.

    :raises click.UsageError: they do not.
    """
    try:
        run.check_combination(given)
    except run.WrongUsageError as error:
        raise click.UsageError(str(error)) from None


def _option(name: str, option: Option, default: Any) -> Callable[[_F], _F]:
    given: dict[str, Any] = {"heading": option.heading, "help": option.help}
    if option.metavar is not None:
        given |= {"metavar": option.metavar, "multiple": option.multiple}
    elif "/" not in option.flags[0]:
        given["is_flag"] = True
    if option.is_open:
        given["default"] = None
    elif option.shows_default:
        given |= {"default": default, "show_default": True}
    if option.parse is not None:
        given["callback"] = values.each(option.parse)
    return click.option(*option.flags, name, cls=_GroupedOption, **given)


@click.command(
    "run",
    cls=GroupedCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
)
@with_options(run.options())
@click.argument("command", nargs=-1, metavar="CMD [ARG]...", type=click.UNPROCESSED)
def run_command(**given: Any) -> None:
    """Run CMD in gVisor: on a kernel of its own, without root.

    CMD sees /usr, /bin, /sbin, /lib*, /etc and /opt of this machine. Homes, /tmp, /run, /var, /mnt,
    /media and /srv are empty: --bind shows a file of yours. What CMD writes stays in memory, and is
    gone when CMD ends. Of your environment, CMD gets only PATH, LANG and TERM.

    The exit status is that of CMD, or 128+N if signal N killed CMD. 125: CMD did not run, or runsc
    failed. 126: CMD can't be executed. 127: CMD does not exist.

    \b
    usernsctl run -- cat /proc/version
    usernsctl run --bind ~/venv --bind . -- ~/venv/bin/python job.py
    usernsctl run --bind ~/data:/data:rw -- touch /data/file
    usernsctl run --network host --env TOKEN -- curl https://example.org
    """
    check_combination(given)
    run.perform(given, caller.environ())
