"""``usernsctl run``: a command in gVisor, without root.

click has no part in this, see :mod:`usernsctl.cli.run_click`.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from usernsctl._records import fields
from usernsctl._text import say
from usernsctl._typing import TYPE_CHECKING, Any
from usernsctl.errors import UsernsError
from usernsctl.gvisor.options import Option
from usernsctl.gvisor.request import Request

if TYPE_CHECKING:
    from usernsctl.maps import Fill, IdMap


class WrongUsageError(Exception):
    """These options make no sense together."""


_LOOKING_AHEAD = {
    "dry_run": Option(
        flags=("--dry-run",),
        heading="Looking ahead",
        help="Print what would be done, with the values of all variables, and do nothing.",
    ),
    "as_json": Option(
        flags=("--json",),
        heading="Looking ahead",
        help="Print that as JSON, for programs.",
    ),
}


def request_options(*, of_host: bool = False) -> Iterator[tuple[str, Option, Any]]:
    """The options that the fields of a Request have: by its name, each with the field's default.

    :param of_host: whether only those are meant that are about a host of sandboxes.
    """
    for one in fields(Request):
        if of_host and one.metadata.get("argument") is None:
            continue
        for option in one.metadata.get("options", ()):
            yield option.name or one.name, option, one.default


def options() -> Iterator[tuple[str, Option, Any]]:
    """All options of ``usernsctl run``: also those that have it only tell what it would do."""
    yield from request_options()
    for name, option in _LOOKING_AHEAD.items():
        yield name, option, False


def read(words: Sequence[str]) -> dict[str, Any] | None:
    """What the words of a call say, as click would have it.

    :param words: those behind ``run``.
    :returns: the value of each option by its name, and the words of the ``command``; ``None`` if
        they ask for help, or something is wrong with them: click tells what.
    """
    given: dict[str, Any] = {}
    flags: dict[str, tuple[str, Option, bool]] = {}
    texts: dict[str, tuple[Option, list[str]]] = {}
    for name, option, default in options():
        given[name] = _left_out(option, default)
        for flag in option.flags:
            for is_on, one in zip((True, False), flag.split("/"), strict=False):
                flags[one] = (name, option, is_on)
    rest = list(reversed(words))
    while rest and len(rest[-1]) > 1 and rest[-1].startswith("-"):
        word = rest.pop()
        if word == "--":
            break
        flag, has_value, value = word.partition("=")
        if flag not in flags:
            return None
        name, option, is_on = flags[flag]
        if option.metavar is None:
            if has_value:
                return None
            given[name] = is_on
        elif not has_value and not rest:
            return None
        else:
            texts.setdefault(name, (option, []))[1].append(value if has_value else rest.pop())
    try:
        for name, (option, found) in texts.items():
            given[name] = _value(option, found)
    except (ValueError, UsernsError):
        return None
    given["command"] = tuple(reversed(rest))
    return given


def _value(option: Option, texts: list[str]) -> Any:
    """What an option is that was given these texts: the last one counts, and no other is read."""
    read = option.parse or str
    return tuple(map(read, texts)) if option.multiple else read(texts[-1])


# What an empty string, such as the value of a variable that is not set, must not be taken for: the
# current directory, or that the option was left out.
_NEVER_EMPTY = {
    "rootfs": ("--rootfs", "a directory"),
    "bundle": ("--bundle", "a directory"),
    "debug_log": ("--debug-log", "a directory"),
    "state": ("--root", "a directory"),
    "kept": ("--in", "the name of a namespace"),
}


def _left_out(option: Option, default: Any) -> Any:
    """What an option is that is not there."""
    if option.multiple:
        return ()
    if option.shows_default:
        return default
    return None if option.is_open or option.metavar is not None else False


def perform(given: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Run the command that the options ask for, in place of this process.

    Returns only if it is to be told what that would do.

    :param given: what they say, by their names.
    :param environ: the variables that the command may be given.
    """
    is_dry, as_json = given.pop("dry_run"), given.pop("as_json")
    if given["terminal"] is None:
        # With one of them elsewhere, as in a pipe, gVisor often hangs before the command starts.
        given["terminal"] = all(map(os.isatty, (0, 1, 2)))
    request = request_of(given, environ)
    if is_dry:
        from usernsctl.cli import dry_run

        dry_run.show(request, _notify, as_json=as_json)
    else:
        from usernsctl.gvisor.launch import run

        _import_the_rest(has_strangers=given["kept"] is not None)
        run(request, notify=_notify)


def request_of(given: dict[str, Any], environ: Mapping[str, str]) -> Request:
    """What the options ask for, but for those that look ahead; they are taken out of `given`.

    :param environ: the variables that the command may be given.
    """
    env, idmap = _environment(given, environ), _idmap(given)
    return Request(args=given.pop("command"), env=env, idmap=idmap, **given)


def _notify(text: str) -> None:
    say(f"usernsctl: {text}")


def _import_the_rest(*, has_strangers: bool) -> None:
    """Import what is needed once the namespace is entered.

    :param has_strangers: whether somebody may be in it already: who is root there could have
        mounted modules of his own over ours. So there is no import there, not even to fail.
    """
    codecs.lookup("ascii")  # encodings are modules, too
    if has_strangers:
        # What looks for a command, what tells of errors, and what Python tells of ours by.
        for module in ("shutil", "usernsctl.explain.printing", "traceback"):
            import_module(module)


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
    """Look whether options go together.

    :raises WrongUsageError: they do not.
    """
    # To keep a launch for later has no such option.
    if given.get("as_json") and not given["dry_run"]:
        raise WrongUsageError("--json is about what would be done: give --dry-run, too")
    roots = {
        "--rootfs": given["rootfs"],
        "--bundle": given["bundle"],
        "--expose-root": given["expose_root"],
    }
    chosen = [name for name, value in roots.items() if value]
    if len(chosen) > 1:
        raise WrongUsageError(f"{' and '.join(chosen)} exclude each other")
    if given["kept"] is not None and (
        given["map_users"] or given["map_groups"] or given["map_auto"]
    ):
        raise WrongUsageError("--in NAME has a map of its own: leave the --map options out")
    for name, (option, what) in _NEVER_EMPTY.items():
        if given[name] == "":
            raise WrongUsageError(f"{option} needs {what}, not an empty string")
    for name in ("trust_bundle", "allow_hooks"):
        if given[name] and not given["bundle"]:
            raise WrongUsageError(f"--{name.replace('_', '-')} is about a bundle: give --bundle")
    if not given["command"] and not given["bundle"]:
        raise WrongUsageError("no command: give one, as in: usernsctl run -- cat /proc/version")
    if given["command"] and not given["command"][0]:
        raise WrongUsageError("the command is an empty string")


def _environment(given: dict[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    """What the environment options say; they are taken out of `given`."""
    from usernsctl.gvisor import environment

    everything, files, settings = (given.pop(n) for n in ("env_all", "env_files", "settings"))
    # A bundle has an environment of its own.
    bare = given["bundle"] and not everything
    env = {} if bare else environment.base(variables, everything=everything)
    for path in files:
        env.update(environment.read_file(path, variables))
    env.update(environment.read_settings(settings, variables))
    return env
