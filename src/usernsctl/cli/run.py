"""``usernsctl run``: a command in gVisor, without root."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from usernsctl._text import say
from usernsctl.cli import caller, values
from usernsctl.gvisor.options import Option
from usernsctl.gvisor.request import Request

if TYPE_CHECKING:
    from usernsctl.maps import Fill, IdMap

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

# What an empty string, such as the value of a variable that is not set, must not be taken for: the
# current directory, or that the option was left out.
_NEVER_EMPTY = {
    "rootfs": ("--rootfs", "a directory"),
    "bundle": ("--bundle", "a directory"),
    "debug_log": ("--debug-log", "a directory"),
    "state": ("--root", "a directory"),
    "kept": ("--in", "the name of a namespace"),
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


_LOOKING_AHEAD = (
    Option(
        flags=("--dry-run",),
        name="dry_run",
        heading="Looking ahead",
        help="Print what would be done, with the values of all variables, and do nothing.",
    ),
    Option(
        flags=("--json",),
        name="as_json",
        heading="Looking ahead",
        help="Print that as JSON, for programs.",
    ),
)


def request_options(command: _F) -> _F:
    """Give a command the options that the fields of a Request have."""
    made = [
        _option(one, option)
        for one in fields(Request)
        for option in one.metadata.get("options", ())
    ]
    for decorate in reversed(made):
        command = decorate(command)
    return command


def _looking_ahead(command: _F) -> _F:
    """Give a command the options that have it only tell what it would do."""
    for option in reversed(_LOOKING_AHEAD):
        command = _option(None, option)(command)
    return command


def _option(one: Field[Any] | None, option: Option) -> Callable[[_F], _F]:
    given: dict[str, Any] = {"heading": option.heading, "help": option.help}
    if option.metavar is not None:
        given |= {"metavar": option.metavar, "multiple": option.multiple}
    elif "/" not in option.flags[0]:
        given["is_flag"] = True
    if option.is_open:
        given["default"] = None
    elif option.shows_default and one is not None:
        given |= {"default": one.default, "show_default": True}
    if option.parse is not None:
        given["callback"] = values.each(option.parse)
    name = option.name or (one.name if one is not None else None)
    assert name is not None
    return click.option(*option.flags, name, cls=_GroupedOption, **given)


@click.command(
    "run",
    cls=GroupedCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
)
@request_options
@_looking_ahead
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
    usernsctl run --bind ~/venv --bind .:/data:rw --wd /data -- ~/venv/bin/python job.py
    usernsctl run --network host --env TOKEN -- curl https://example.org
    """
    is_dry, as_json = given.pop("dry_run"), given.pop("as_json")
    if as_json and not is_dry:
        raise click.UsageError("--json is about what would be done: give --dry-run, too")
    check_combination(given)
    env = _environment(given)
    idmap = _idmap(given)
    if given["terminal"] is None:
        # With one of them elsewhere, as in a pipe, gVisor often hangs before the command starts.
        given["terminal"] = all(map(os.isatty, (0, 1, 2)))
    request = Request(args=given.pop("command"), env=env, idmap=idmap, **given)
    if is_dry:
        from usernsctl.cli import dry_run

        dry_run.show(request, _notify, as_json=as_json)
    else:
        from usernsctl.gvisor.launch import run

        run(request, notify=_notify)


def _notify(text: str) -> None:
    say(f"usernsctl: {text}")


def _idmap(given: dict[str, Any]) -> IdMap:
    """What the options about ids say; they are taken out of `given`."""
    from usernsctl.maps import IdMap

    fill: Fill = "auto" if given.pop("map_auto") else "none"
    return IdMap(
        map_user=0,
        map_group=0,
        map_users=given.pop("map_users"),
        map_groups=given.pop("map_groups"),
        fill_users=fill,
        fill_groups=fill,
        allow_single_id=given.pop("allow_single_id"),
    )


def check_combination(given: dict[str, Any]) -> None:
    """Refuse options that exclude each other.

    :raises click.UsageError: some do.
    """
    roots = {
        "--rootfs": given["rootfs"],
        "--bundle": given["bundle"],
        "--expose-root": given["expose_root"],
    }
    chosen = [name for name, value in roots.items() if value]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other")
    if given["kept"] is not None and (
        given["map_users"] or given["map_groups"] or given["map_auto"]
    ):
        raise click.UsageError("--in NAME has a map of its own: leave the --map options out")
    for name, (option, what) in _NEVER_EMPTY.items():
        if given[name] == "":
            raise click.UsageError(f"{option} needs {what}, not an empty string")
    for name in ("trust_bundle", "allow_hooks"):
        if given[name] and not given["bundle"]:
            raise click.UsageError(f"--{name.replace('_', '-')} is about a bundle: give --bundle")
    if not given["command"] and not given["bundle"]:
        raise click.UsageError("no command: give one, as in: usernsctl run -- cat /proc/version")
    if given["command"] and not given["command"][0]:
        raise click.UsageError("the command is an empty string")


def _environment(given: dict[str, Any]) -> dict[str, str]:
    """What the environment options say; they are taken out of `given`."""
    from usernsctl.gvisor import environment

    everything, files, settings = (given.pop(n) for n in ("env_all", "env_files", "settings"))
    variables = caller.environ()
    # A bundle has an environment of its own.
    bare = given["bundle"] and not everything
    env = {} if bare else environment.base(variables, everything=everything)
    for path in files:
        env.update(environment.read_file(path, variables))
    env.update(environment.read_settings(settings, variables))
    return env
