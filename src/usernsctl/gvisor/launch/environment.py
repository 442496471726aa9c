"""The environment of a command: the caller's variables, ``--env`` and ``--env-file``."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterable, Mapping

from usernsctl._system.paths import ForeignLinkError, open_path
from usernsctl.errors import CommandError
from usernsctl.gvisor.runsc.command import DEFAULT_PATH

PASSED_ON = ("PATH", "LANG", "TERM")

# Maximum size of an --env-file, well above the environment of any command: devices may be endless.
_FILE_BYTES_MAX = 8 << 20

# Names that errors may quote: other text before a = may be a part of a secret value.
_PLAIN_NAME = "[A-Z_][A-Z0-9_]{0,39}"


def base_environment(caller: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """Return the command's variables that no option sets.

    :param caller: the environment of the caller.
    :param everything: whether the command gets all variables of the caller, secrets included.
    """
    if everything:
        return dict(caller)
    inherited = {name: caller[name] for name in PASSED_ON if name in caller}
    inherited.setdefault("PATH", DEFAULT_PATH)
    return inherited


def home(uid: int) -> str:
    """Return the default HOME of a uid inside."""
    return "/root" if uid == 0 else "/"


def read_settings(settings: Iterable[str], caller: Mapping[str, str]) -> dict[str, str]:
    """Parse the values of ``--env``: ``NAME=VALUE``, or ``NAME`` for the caller's value.

    :raises CommandError: a setting is malformed, or a variable of the caller is not set.
    """
    return dict(_value(text, where, caller) for text, where in _options(settings))


def read_file(path: str, caller: Mapping[str, str]) -> dict[str, str]:
    """Parse an ``--env-file``, which has a setting on each line.

    Empty lines and lines that begin with # are skipped. Quotes are part of a value.

    :raises CommandError: the file can't be read, a line is malformed, or a variable of the caller
        is not set.
    """
    return dict(_value(text, where, caller) for text, where in _lines(path))


def names_in(settings: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the variables in the values of ``--env``; a value of None stands for the caller's.

    :raises CommandError: a setting is malformed.
    """
    return [_name_and_value(text, where) for text, where in _options(settings)]


def names_in_file(path: str) -> list[tuple[str, str | None]]:
    """Return the variables in an ``--env-file``; a value of None stands for the caller's.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return [_name_and_value(text, where) for text, where in _lines(path)]


def _options(settings: Iterable[str]) -> list[tuple[str, str]]:
    """Return each value of ``--env`` with its location for errors."""
    return [(text, f"--env, number {number}") for number, text in enumerate(settings, 1)]


def _lines(path: str) -> list[tuple[str, str]]:
    """Return each setting in an ``--env-file`` with its location for errors."""
    content = _content(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # Don't chain the UnicodeDecodeError, which has the whole text, secrets included.
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(f"--env-file {path}, line {line}: a byte that is not UTF-8", path) from None
    settings = []
    for number, setting in enumerate(text.split("\n"), 1):
        where = f"--env-file {path}, line {number}"
        if "\0" in setting:
            raise _error(f"{where}: a NUL character, which no variable can have", path)
        if setting.strip() and not setting.startswith("#"):
            settings.append((setting.removesuffix("\r"), where))
    return settings


def _content(path: str) -> bytes:
    """Read an ``--env-file``.

    :raises CommandError: the file can't be read, or is too long.
    """
    try:
        content = _read_settings_file(path)
    except OSError as error:
        failed = _error(f"--env-file {path}: {error.strerror}", path)
        if isinstance(error, ForeignLinkError):
            failed.explain(cause=error.cause, remedy=error.remedy)
        raise failed from error
    if len(content) > _FILE_BYTES_MAX:
        raise _error(f"--env-file {path} is longer than {_FILE_BYTES_MAX} bytes", path)
    return content


def _read_settings_file(path: str) -> bytes:
    """Read at most _FILE_BYTES_MAX + 1 bytes of a file.

    :raises OSError: the file can't be read, or is a FIFO.
    """
    with open_path(path) as found:
        # Opening a FIFO without a writer blocks. The shell's <(COMMAND) is a pipe without a path,
        # and open already.
        if stat.S_ISFIFO(found.status.st_mode) and found.path.startswith("/"):
            raise OSError(errno.EINVAL, "a FIFO; give a regular file, or in a shell <(COMMAND)")
        with open(found.open(), "rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)


def _setting(text: str, where: str) -> tuple[str, str | None]:
    """Split a setting into its name, and its value or None."""
    name, equals, value = text.partition("=")
    # Don't quote malformed text: it may be a part of a value, such as the second line of a key.
    if not name:
        raise _error(f"{where}: the name before the = is missing; write NAME=VALUE or NAME")
    if name != name.strip():
        raise _error(f"{where}: the name has a space beside it; write NAME=VALUE or NAME")
    return name, value if equals else None


def _name_and_value(text: str, where: str) -> tuple[str, str | None]:
    name, value = _setting(text, where)
    if value is None:
        _refuse_colon(name, where)
    return name, value


def _value(text: str, where: str, caller: Mapping[str, str]) -> tuple[str, str]:
    name, value = _setting(text, where)
    if value is None and name not in caller:
        import re

        _refuse_colon(name, where)
        subject = name if re.fullmatch(_PLAIN_NAME, name) else "the variable"
        raise _error(f"{where}: {subject} is not set; give it a value: NAME=VALUE")
    return name, caller[name] if value is None else value


def _refuse_colon(name: str, where: str) -> None:
    import re

    head, colon, _ = name.partition(":")
    if colon and re.fullmatch(_PLAIN_NAME, head):
        raise _error(f"{where}: {head} is followed by a colon in place of =; write {head}=VALUE")


def _error(reason: str, path: str | None = None) -> CommandError:
    return CommandError(reason, step="environment", filename=path)
