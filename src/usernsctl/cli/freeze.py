"""``usernsctl freeze``: what ``usernsctl run`` would do, kept in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from usernsctl.cli.parser import Parser, UsageError
from usernsctl.cli.run import add_options, check_combination, request_options
from usernsctl.gvisor.launch.request import Request
from usernsctl.maps import Extent

# What is of the moment, or of this process.
_REFUSED = {
    "kept": ("--in", "a kept namespace may be gone by then"),
    "state": ("--root", "each start has a state of its own"),
    "debug_log": ("--debug-log", "use it with usernsctl run"),
}


def parser(prog: str) -> Parser:
    """Return the parser of ``usernsctl freeze``."""
    parser = Parser(
        prog,
        write,
        usage="[OPTIONS] -o FILE [--] [CMD [ARG]...]",
        options_first=True,
        wants=["environ", "words"],
    )
    parser.add_option(
        "-o",
        "--output",
        heading="The launch",
        required=True,
        metavar="FILE",
        help="Write the launch to FILE, anew (required).",
    )
    add_options(parser, request_options())
    parser.add_words("command", "[CMD [ARG]...]")
    return parser


def write(output: str, environ: Mapping[str, str], words: Sequence[str], **given: Any) -> None:
    """Write what `usernsctl run` would do to FILE, and do nothing.

    usernsctl-exec --launch FILE [-- CMD [ARG]...] does it later, as often as you like, and needs no
    Python. It takes FILE from you or root only. CMD there takes the place of CMD here.

    Decided now: which files are shown, what config.json says, what runsc is called with. Taken from
    whoever starts it: ids, the current directory, the name of the host, and the variables that are
    passed on, such as those of --env NAME. Values of --env NAME=VALUE are in FILE, which all users
    may read.

        usernsctl freeze -o job.launch --bind ~/data:/data -- ls /data
        usernsctl-exec --launch job.launch
    """
    from usernsctl.gvisor.launch import freeze

    for name, (option, why) in _REFUSED.items():
        if given[name] is not None:
            raise UsageError(f"{option} can't be frozen: {why}")
    if not given["command"] and given["bundle"] is None:
        # One may come later.
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
        remedy=freeze.remedy_of(words),
    )
    given.pop("allow_single_id")
    given["terminal"] = bool(given["terminal"])
    request = Request(args=given.pop("command"), **given)
    freeze.write(freeze.freeze(request, environ, later), output)


def _ids(given: dict[str, Any]) -> tuple[str, ...]:
    """The options of usernsctl-exec that map the same ids.

    :raises MapError: an extent is malformed.
    """
    words = ["--map-root-user"]
    for name in ("map_users", "map_groups"):
        for text in given[name]:
            Extent.parse(text)
            words.append(f"--{name.replace('_', '-')}={text}")
    for name in ("map_auto", "allow_single_id"):
        if given[name]:
            words.append(f"--{name.replace('_', '-')}")
    return tuple(words)
