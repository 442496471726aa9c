"""The environment of the command: little of the caller's own, and what is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from usernsctl import opened
from usernsctl.errors import CommandError

PASSED_ON = ("PATH", "LANG", "TERM")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: That of runsc: its processes can be looked into by the caller's others, and need no secrets.
RUNSC = {"PATH": DEFAULT_PATH}


def base(caller: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """What the command has without being asked for.

    :param caller: the environment of the caller.
    :param everything: whether all of it is passed on, secrets included.
    """
    if everything:
        return dict(caller)
    kept = {name: caller[name] for name in PASSED_ON if name in caller}
    kept.setdefault("PATH", DEFAULT_PATH)
    return kept


def home(uid: int) -> str:
    """The HOME of a uid inside, where nobody sets one."""
    return "/root" if uid == 0 else "/"


def read_settings(settings: Iterable[str], caller: Mapping[str, str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` settings, or ``NAME`` for the caller's own value.

    :raises CommandError: a setting is malformed, or the caller has no such variable.
    """
    return dict(_setting(text, caller, f"--env {text}") for text in settings)


def read_file(path: str, caller: Mapping[str, str]) -> dict[str, str]:
    """Read a file of such settings, one a line; empty lines and those with ``#`` first are skipped.

    Values are taken as they are, quotes included.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    try:
        with open(opened.follow(path).open(), encoding="utf-8") as file:
            lines = file.read().split("\n")
    except OSError as error:
        failed = _error(f"--env-file {path}: {error.strerror}", path)
        if isinstance(error, opened.ForeignLinkError):
            failed.cause, failed.remedy = error.cause, error.remedy
        raise failed from error
    except UnicodeDecodeError as error:
        raise _error(f"--env-file {path}: it is not UTF-8 text: {error}", path) from error
    return dict(
        _setting(line.removesuffix("\r"), caller, f"--env-file {path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    )


def _setting(text: str, caller: Mapping[str, str], where: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or name != name.strip():
        raise _error(f"{where}: {text!r} is not NAME=VALUE or NAME")
    if equals:
        return name, value
    if name not in caller:
        raise _error(f"{where}: {name} is not set; give it a value: {name}=VALUE")
    return name, caller[name]


def _error(reason: str, path: str | None = None) -> CommandError:
    return CommandError(reason, step="environment", filename=path)
