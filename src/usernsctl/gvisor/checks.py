"""Checks of arguments that several modules of gvisor share."""

from __future__ import annotations

import errno
import operator
import os
import signal
from collections.abc import Mapping

from usernsctl._lean import TYPE_CHECKING, Any
from usernsctl._system.paths import check_name, check_path
from usernsctl.errors import CommandError

if TYPE_CHECKING:
    from usernsctl.commands.arguments import Args, StrOrBytesPath


def argv(args: Args) -> tuple[str, ...]:
    """Return a command and its arguments as strings; `args` is as for subprocess.

    :raises TypeError: an argument is neither text nor a path.
    :raises ValueError: an argument has a NUL character.
    """
    given: Any = [args] if isinstance(args, str | bytes | os.PathLike) else args
    try:
        strings = tuple(map(os.fsdecode, given))
    except TypeError as error:
        raise TypeError(f"args must be text, or a sequence of text and paths: {error}") from None
    for string in strings:
        if "\0" in string:
            raise ValueError(f"args: {string!r} has a NUL character, which no argument can have")
    return strings


def sandbox_id(id: str) -> str:
    """Return `id` if it is valid as the id of a sandbox.

    :raises TypeError: `id` is not text.
    :raises ValueError: `id` is malformed.
    """
    if not isinstance(id, str):
        raise TypeError(f"id must be text, not {id!r}")
    return check_name(id, "the id of a sandbox")


def user_ids(user: tuple[int, int]) -> tuple[int, int]:
    """Return `user` as a tuple of a uid and a gid.

    :raises TypeError: `user` is not a pair of numbers; names are not accepted.
    """
    is_pair = isinstance(user, tuple | list) and len(user) == 2
    if not is_pair or not all(isinstance(number, int) for number in user):
        raise TypeError(f"user must be two numbers, a uid and a gid, not {user!r}")
    return int(user[0]), int(user[1])


def variables(env: Mapping[str, str] | None) -> dict[str, str]:
    """Return `env` as a dictionary of strings; values, which may be secret, are in no error.

    :raises TypeError: `env` is not a mapping of text to text.
    :raises ValueError: a name is empty or has a ``=``, or a name or value has a NUL character.
    """
    if env is None:
        return {}
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a mapping of names to values, not {type(env).__name__}")
    found = {}
    for name, value in env.items():
        try:
            found[os.fsdecode(name)] = os.fsdecode(value)
        except TypeError as error:
            raise TypeError(f"env: names and values must be text: {error}") from None
    for name, value in found.items():
        if not name or "=" in name:
            what = f"{name.partition('=')[0]!r}, with a = after it," if name else "an empty name"
            raise ValueError(f"env: {what} can't be the name of a variable")
        if "\0" in name + value:
            where = "a name" if "\0" in name else f"the value of {name!r}"
            raise ValueError(f"env: {where} has a NUL character")
    return found


def check_utf8(name: str, text: str) -> None:
    """Check that `text`, given by the argument `name`, can be in a config.json (RFC 8259).

    :raises ValueError: `text` can't be encoded in UTF-8; the message doesn't quote it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        reason = "is not UTF-8, as all text in runsc's config.json must be"
        raise ValueError(f"{name} {reason}") from None


def directory_inside(cwd: StrOrBytesPath | None) -> str | None:
    """Return the working directory for a command in a sandbox as a string, or None.

    :raises TypeError: `cwd` is not a path.
    :raises ValueError: `cwd` is empty or has a NUL character.
    :raises CommandError: `cwd` is relative.
    """
    if cwd is None:
        return None
    found = check_path("cwd", cwd)
    assert found is not None
    if not found.startswith("/"):
        raise CommandError(
            f"cwd={found!r} is not an absolute path",
            step="chdir",
            errno=errno.EINVAL,
            filename=found,
            remedy="give the directory's absolute path in the sandbox",
        )
    return found


def stream(name: str, given: Any) -> None:
    """Check that `given` is a standard stream as subprocess accepts it.

    :raises TypeError: `given` has another type, such as a path.
    """
    if given is not None and not isinstance(given, int) and not hasattr(given, "fileno"):
        raise TypeError(
            f"{name} must be an open file, a descriptor, PIPE or DEVNULL, not {given!r}"
        )


def count(name: str, given: int) -> int:
    """Return `given`, the value of the argument `name`, if it is a whole number of at least 1.

    :raises TypeError: `given` is not a whole number.
    :raises ValueError: `given` is less than 1.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name} must be a whole number, not {given!r}")
    if given < 1:
        raise ValueError(f"{name} must be 1 or more, not {given}")
    return given


def signal_number(given: int) -> int:
    """Return `given` as the number of a signal, or 0 for no signal (kill(2)).

    :raises TypeError: `given` is not a whole number.
    :raises OSError: no signal has this number (EINVAL), as in subprocess.
    """
    number = operator.index(given)
    if not 0 <= number < signal.NSIG:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return number


def seconds(name: str, given: float) -> float:
    """Return `given`, the value of the argument `name`, if it is a time of more than 0 seconds.

    :raises TypeError: `given` is not a number.
    :raises ValueError: `given` is 0 or less, NaN, or too large for a timeout.
    """
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {given!r}")
    from usernsctl.commands.arguments import check_timeout

    check_timeout(given, name)
    if not given > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {given}")
    return given
