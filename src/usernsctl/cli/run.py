"""``usernsctl run``: a command in gVisor, without root."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from usernsctl._text import say
from usernsctl.cli import caller, values

if TYPE_CHECKING:
    from usernsctl.maps import Fill, IdMap


class _GroupedOption(click.Option):
    """An option that --help lists under a heading."""

    def __init__(self, *args: Any, heading: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


class _GroupedCommand(click.Command):
    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                heading = getattr(parameter, "heading", "Other")
                headings.setdefault(heading, []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


_F = TypeVar("_F", bound=Callable[..., Any])


def _option(heading: str, *names: str, **kwargs: Any) -> Callable[[_F], _F]:
    return click.option(*names, cls=_GroupedOption, heading=heading, **kwargs)


_FILES, _PROCESS, _ISOLATION, _RUNSC = "Files", "The command", "Isolation", "runsc"


@click.command(
    "run",
    cls=_GroupedCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] --",
)
@_option(
    _FILES,
    "--bind",
    "binds",
    multiple=True,
    callback=values.each(values.bind),
    metavar="SRC[:DST][:ro|rw]",
    help="Show a file or directory; DST is SRC and ro unless given. With rw, what is written "
    "there reaches this machine.",
)
@_option(
    _FILES,
    "--rootfs",
    metavar="DIR",
    help="Use a root filesystem of your own, such as an unpacked image; it is not written to.",
)
@_option(
    _FILES,
    "--bundle",
    metavar="DIR",
    help="Run an OCI bundle. Its config.json is mended where needed, in memory; options and CMD "
    "replace what it says.",
)
@_option(
    _FILES,
    "--trust-bundle",
    is_flag=True,
    help="Take the bundle's bind mounts, annotations and capabilities as they are written. Without "
    "it, the bundle is a stranger's data, and may show nothing but its own files.",
)
@_option(
    _FILES,
    "--allow-hooks",
    is_flag=True,
    help="Let the bundle's hooks run: programs of its choice that run OUTSIDE gVisor, on this "
    "machine's kernel, as you.",
)
@_option(
    _FILES,
    "--expose-root",
    is_flag=True,
    help="SHOW ALL FILES that you can read, your home and your secrets included: all of / save "
    "/proc, /sys, /dev and /tmp.",
)
@_option(
    _PROCESS,
    "--env",
    "settings",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Set a variable; without a value, pass on yours.",
)
@_option(
    _PROCESS,
    "--env-file",
    "env_files",
    multiple=True,
    metavar="FILE",
    help="Read such settings from a file, one a line.",
)
@_option(_PROCESS, "--env-all", is_flag=True, help="Pass on all variables, secrets included.")
@_option(
    _PROCESS,
    "--wd",
    "--cwd",
    "cwd",
    metavar="DIR",
    help="Start in DIR; by default in the current directory if it is there inside, else in /.",
)
@_option(
    _PROCESS,
    "--user",
    callback=values.each(values.user),
    metavar="UID[:GID]",
    help="Run as these ids inside; 0:0 by default.",
)
@_option(_PROCESS, "--hostname", metavar="NAME", help="The name of the host inside.")
@_option(
    _PROCESS,
    "--terminal/--no-terminal",
    default=None,
    help="Give the command a terminal of its own; by default if standard input, output and error "
    "are one.",
)
@_option(
    _PROCESS,
    "--rlimit",
    "rlimits",
    multiple=True,
    callback=values.each(values.rlimit),
    metavar="NAME=SOFT[:HARD]",
    help="Set a resource limit, such as nofile=1024; setrlimit(2) has the names and units.",
)
@_option(
    _ISOLATION,
    "--network",
    default="none",
    show_default=True,
    callback=values.each(values.network),
    metavar="none|host",
    help="No network but a loopback device, or this machine's.",
)
@_option(
    _ISOLATION,
    "--map-users",
    multiple=True,
    metavar="INNER:OUTER:COUNT",
    help="Map uids besides your own, which is 0 inside.",
)
@_option(
    _ISOLATION,
    "--map-groups",
    multiple=True,
    metavar="INNER:OUTER:COUNT",
    help="The same for gids.",
)
@_option(
    _ISOLATION,
    "--map-auto",
    is_flag=True,
    help="Map all your subordinate ids, from 1 on.",
)
@_option(
    _ISOLATION,
    "--allow-single-id",
    is_flag=True,
    help="Where they can't be had, go on with your own id alone.",
)
@_option(
    _ISOLATION,
    "--in",
    "kept",
    metavar="NAME",
    help="Run in a kept namespace (usernsctl ns create NAME), with the ids that it has.",
)
@_option(
    _ISOLATION,
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Prove that the kernel is gVisor's before the command gets control.",
)
@_option(
    _ISOLATION,
    "--no-new-privs/--new-privs",
    default=True,
    show_default=True,
    help="Keep runsc, and the command inside, from gaining privileges by set-user-id programs.",
)
@_option(
    _ISOLATION,
    "--drop-bounding/--keep-bounding",
    default=True,
    show_default=True,
    help="Leave runsc no capabilities in its namespace but those that it needs.",
)
@_option(
    _RUNSC,
    "--runsc",
    "program",
    metavar="FILE",
    help="The runsc to run, by its absolute path; by default what $USERNSCTL_RUNSC names, else the "
    "first along PATH.",
)
@_option(
    _RUNSC,
    "--root",
    "state",
    metavar="DIR",
    help="Keep runsc's state in DIR, for other runsc commands to use meanwhile.",
)
@_option(
    _RUNSC,
    "--platform",
    callback=values.each(values.choice("systrap", "ptrace", "kvm")),
    metavar="systrap|ptrace|kvm",
    help="How gVisor intercepts system calls; systrap by default.",
)
@_option(_RUNSC, "--debug-log", metavar="DIR", help="Have runsc write debug logs to DIR.")
@click.argument("command", nargs=-1, metavar="CMD [ARG]...", type=click.UNPROCESSED)
def run_command(**given: Any) -> NoReturn:
    """Run CMD in gVisor: on a kernel of its own, without root.

    CMD sees /usr, /bin, /sbin, /lib*, /etc and /opt of this machine. All that it writes is kept in
    memory and is gone with it. Homes, /tmp, /run, /var, /mnt, /media and /srv are empty, and of
    your environment there are only PATH, LANG and TERM.

    The exit status is that of CMD, 128+N if signal N killed it. 125: CMD did not run, or runsc
    failed; 126: it can't be executed; 127: it is not there.

    \b
    usernsctl run -- cat /proc/version
    usernsctl run --bind ~/venv --bind .:/data:rw --wd /data -- ~/venv/bin/python job.py
    usernsctl run --network host --env TOKEN -- curl https://example.org
    """
    from usernsctl.gvisor.launch import run
    from usernsctl.gvisor.request import Request

    _check_combination(given)
    env = _environment(given)
    idmap = _idmap(given)
    if given["terminal"] is None:
        # With one of them elsewhere, as in a pipe, gVisor often hangs before the command starts.
        given["terminal"] = all(map(os.isatty, (0, 1, 2)))
    program = given.pop("program")
    run(
        Request(args=given.pop("command"), env=env, idmap=idmap, **given),
        notify=lambda text: say(f"usernsctl: {text}"),
        program=program,
    )


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


def _check_combination(given: dict[str, Any]) -> None:
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
    for name in ("rootfs", "bundle"):
        if given[name] == "":
            raise click.UsageError(f"--{name} needs a directory, not an empty string")
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
