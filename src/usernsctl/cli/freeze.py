"""``usernsctl freeze``: write a launch file, which ``usernsctl-exec`` performs without Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usernsctl.cli.parser import Parser, UsageError
from usernsctl.cli.run import add_options, check_combination, file_parser, request_options
from usernsctl.gvisor.launch.request import Request
from usernsctl.maps import Extent

# Options of usernsctl run that freeze rejects, each with the reason.
_REFUSED = {
    "kept": ("--in", "the namespace may not exist when the launch is started"),
    "state": ("--root", "each start creates its own directory for runsc's state"),
    "log": ("--log", "give --log to usernsctl-exec with --launch"),
    "allow": ("--allow", "a launch has no rules for names and addresses; use usernsctl run"),
    "debug_log": ("--debug-log", "use --debug-log with usernsctl run"),
}


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl freeze``."""
    parser = file_parser(prog, write, "The launch", "launch")
    add_options(parser, request_options())
    return parser


def write(output: str, environ: Mapping[str, str], words: Sequence[str], **given: Any) -> None:
    """Write the launch of a `usernsctl run` to FILE, without starting CMD.

    usernsctl-exec --launch FILE [-- CMD [ARG]...] starts CMD later, any number of times, and needs
    no Python. FILE must belong to you or root. A CMD after -- replaces the CMD in FILE.

    FILE fixes the files that CMD sees, config.json, and the arguments of runsc. Each start takes
    from its caller: ids, the current directory, the hostname, and variables that are passed on,
    such as those of --env NAME. FILE has the values of --env NAME=VALUE, and all users may read it.
    --in, --root, --allow, --debug-log and --log can't be frozen.

        usernsctl freeze -o job.launch --bind ~/data:/data -- ls /data
        usernsctl-exec --launch job.launch
    """
    from usernsctl.gvisor.launch import freeze

    for name, (option, why) in _REFUSED.items():
        if given[name] not in (None, ()):
            raise UsageError(f"{option} can't be frozen: {why}")
    if not given["command"] and given["bundle"] is None:
        # If no command is given, check with a placeholder, because the caller of usernsctl-exec
        # --launch may give the command.
        check_combination({**given, "command": ("true",)})
    else:
        check_combination(given)
    everything, files, settings = (given.pop(n) for n in ("env_all", "env_files", "settings"))
    later = freeze.FreezePolicy(
        ids=_ids(given),
        has_several=bool(given.pop("map_users"))
        | bool(given.pop("map_groups"))
        | given.pop("map_auto"),
        env=freeze.environment_of(
            settings,
            files,
            everything=everything,
            bare=given["bundle"] is not None and not everything,
        ),
        terminal=given.pop("terminal"),
        remedy=freeze.remedy_of(words),
    )
    given.pop("allow_single_id")
    request = Request(args=given.pop("command"), **given)
    freeze.write(freeze.freeze(request, environ, later), output)


def _ids(given: dict[str, Any]) -> tuple[str, ...]:
    """Return the options of usernsctl-exec that request the id maps of the launch file.

    :raises MapError: an extent is malformed.
    """
    options = ["--map-root-user"]
    for name in ("map_users", "map_groups"):
        for text in given[name]:
            Extent.parse(text)
            options.append(f"--{name.replace('_', '-')}={text}")
    for name in ("map_auto", "allow_single_id"):
        if given[name]:
            options.append(f"--{name.replace('_', '-')}")
    return tuple(options)
