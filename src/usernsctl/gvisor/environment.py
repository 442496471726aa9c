"""The environment of the command: little of the caller's own, and what is asked for."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable, Mapping

from usernsctl._system import opened
from usernsctl.errors import CommandError
from usernsctl.gvisor.releases import SIDE_VARIABLE, named_side_directory

PASSED_ON = ("PATH", "LANG", "TERM")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What a file of settings may have: more than any command is started with, and a device may have no
# end.
_FILE_BYTES_MAX = 8 << 20

# A name that plainly is one, and no piece of a value.
_PLAIN = "[A-Z_][A-Z0-9_]{0,39}"


def for_runsc(*, is_named: bool = False) -> dict[str, str]:
    """That of runsc: its processes can be looked into by the caller's others, and need no secrets.

    Where the programs are that it needs, this process's own environment may say; in a container,
    that is the image's, and not the one that a command is given.

    :param is_named: whether the caller has named runsc, and so leaves nothing to variables.
    """
    directory = None if is_named else named_side_directory()
    return {"PATH": DEFAULT_PATH, **({SIDE_VARIABLE: directory} if directory else {})}


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


def search_path(settings: Iterable[str]) -> str:
    """Return the PATH that a command has by its variables, each NAME=VALUE."""
    found = DEFAULT_PATH
    for setting in settings:
        name, _, value = setting.partition("=")
        if name == "PATH":
            found = value
    return found


def read_settings(settings: Iterable[str], caller: Mapping[str, str]) -> dict[str, str]:
    """Read ``NAME=VALUE`` settings, or ``NAME`` for the caller's own value.

    :raises CommandError: a setting is malformed, or the caller has no such variable.
    """
    return dict(_value(*one, caller) for one in _options(settings))


def read_file(path: str, caller: Mapping[str, str]) -> dict[str, str]:
    """Read a file of such settings, one a line; empty lines and those with ``#`` first are skipped.

    Values are taken as they are, quotes included.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return dict(_value(*one, caller) for one in _lines(path))


def names_in(settings: Iterable[str]) -> list[tuple[str, str | None]]:
    """What such settings name, each with its value, or ``None`` for what a caller is to have.

    :raises CommandError: a setting is malformed.
    """
    return [_unset(*one) for one in _options(settings)]


def names_in_file(path: str) -> list[tuple[str, str | None]]:
    """The same of a file.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return [_unset(*one) for one in _lines(path)]


def _options(settings: Iterable[str]) -> list[tuple[str, str]]:
    """Settings, each with the place that it is in."""
    return [(text, f"--env, number {number}") for number, text in enumerate(settings, 1)]


def _lines(path: str) -> list[tuple[str, str]]:
    """The same of a file."""
    content = _content(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # The error itself has the whole text with it.
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(f"--env-file {path}, line {line}: a byte that isn't UTF-8", path) from None
    found = []
    for number, setting in enumerate(text.split("\n"), 1):
        where = f"--env-file {path}, line {number}"
        if "\0" in setting:
            raise _error(f"{where}: a NUL character, which no variable can have", path)
        if setting.strip() and not setting.startswith("#"):
            found.append((setting.removesuffix("\r"), where))
    return found


def _content(path: str) -> bytes:
    """All bytes of a file of settings."""
    try:
        content = _read(path)
    except OSError as error:
        failed = _error(f"--env-file {path}: {error.strerror}", path)
        if isinstance(error, opened.ForeignLinkError):
            failed.explain(cause=error.cause, remedy=error.remedy)
        raise failed from error
    if len(content) > _FILE_BYTES_MAX:
        reason = f"it has more than {_FILE_BYTES_MAX} bytes; settings may have no more"
        raise _error(f"--env-file {path}: {reason}", path)
    return content


def _read(path: str) -> bytes:
    """The bytes of a file, or one more than there may be."""
    with opened.follow(path) as found:
        # To open a FIFO that nobody writes to would wait for ever. A pipe of the shell's own,
        # <(COMMAND), has no path.
        if stat.S_ISFIFO(found.status.st_mode) and found.path.startswith("/"):
            raise OSError(errno.EINVAL, "it is a FIFO; name a file, or say <(COMMAND) in a shell")
        with open(found.open(), "rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)


def _setting(text: str, where: str) -> tuple[str, str | None]:
    """The name in a setting, and the value if it has one."""
    name, equals, value = text.partition("=")
    # What is no setting may be a piece of a value, such as the second line of a key: none is told.
    if not name:
        raise _error(f"{where}: there is no name before the =; it should be NAME=VALUE or NAME")
    if name != name.strip():
        raise _error(f"{where}: a space beside the name; it should be NAME=VALUE or NAME")
    return name, value if equals else None


def _unset(text: str, where: str) -> tuple[str, str | None]:
    name, value = _setting(text, where)
    if value is None:
        _refuse_colon(name, where)
    return name, value


def _value(text: str, where: str, caller: Mapping[str, str]) -> tuple[str, str]:
    name, value = _setting(text, where)
    if value is None and name not in caller:
        import re

        _refuse_colon(name, where)
        told = name if re.fullmatch(_PLAIN, name) else "a variable of this name"
        raise _error(f"{where}: {told} is not set; give it a value: NAME=VALUE")
    return name, caller[name] if value is None else value


def _refuse_colon(name: str, where: str) -> None:
    import re

    head, colon, _ = name.partition(":")
    if colon and re.fullmatch(_PLAIN, head):
        raise _error(f"{where}: there is a colon after {head}, not a =; it should be {head}=VALUE")


def _error(reason: str, path: str | None = None) -> CommandError:
    return CommandError(reason, step="environment", filename=path)
