"""What the arguments of sandboxes are to be, checked one by one."""

from __future__ import annotations

import errno
import operator
import os
import signal
from collections.abc import Mapping

from usernsctl._lean import TYPE_CHECKING, Any
from usernsctl._system.records import NAME, NAME_RULE
from usernsctl.errors import CommandError

if TYPE_CHECKING:
    from usernsctl.commands.arguments import Args, StrOrBytesPath


def words(args: Args) -> tuple[str, ...]:
    """The words of a command, as subprocess takes them.

    :raises TypeError: one is neither text nor a path.
    :raises ValueError: one has a NUL character.
    """
    given: Any = [args] if isinstance(args, str | bytes | os.PathLike) else args
    try:
        found = tuple(map(os.fsdecode, given))
    except TypeError as error:
        raise TypeError(f"args must be text, or a sequence of text and paths: {error}") from None
    for word in found:
        if "\0" in word:
            raise ValueError(f"args: {word!r} has a NUL character, which no word can have")
    return found


def box_id(id: str) -> str:
    """An id that runsc takes.

    :raises TypeError: it is no text.
    :raises ValueError: it is malformed.
    """
    if not isinstance(id, str):
        raise TypeError(f"id must be text, not {id!r}")
    import re

    if not re.fullmatch(NAME, id):
        raise ValueError(f"{id!r} can't be an id: {NAME_RULE}")
    return id


def user_ids(user: tuple[int, int]) -> tuple[int, int]:
    """A uid and a gid.

    :raises TypeError: it is something else, such as a name.
    """
    is_pair = isinstance(user, tuple | list) and len(user) == 2
    if not is_pair or not all(isinstance(number, int) for number in user):
        raise TypeError(f"user must be two numbers, a uid and a gid, not {user!r}")
    return int(user[0]), int(user[1])


def variables(env: Mapping[str, str] | None) -> dict[str, str]:
    """Variables for an environment; what is in them is not shown in errors.

    :raises TypeError: it is no mapping, or not of text to text.
    :raises ValueError: a name can't be one, or a NUL character is in one or in a value.
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
    """Check that the argument `name` can be in a config.json (RFC 8259); its text is not shown.

    :raises ValueError: it is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        reason = "is not UTF-8, and runsc's config.json can have no other text"
        raise ValueError(f"{name} {reason}") from None


def path(name: str, given: StrOrBytesPath | None) -> str | None:
    """The path that the argument `name` gives, if it does.

    :raises TypeError: it is no path.
    :raises ValueError: it is one that no file has.
    """
    try:
        found = None if given is None else os.fsdecode(given)
    except TypeError:
        raise TypeError(f"{name} must be a path, not {given!r}") from None
    # Mostly of a variable that was not set: it would be taken for the current directory.
    if found == "":
        raise ValueError(f"{name} is empty: it must be a path")
    if found is not None and "\0" in found:
        raise ValueError(f"{name}: {found!r} can't be a path: it has a NUL character")
    return found


def directory_inside(cwd: StrOrBytesPath | None) -> str | None:
    """The directory that a command is to start in.

    :raises TypeError: it is no path.
    :raises ValueError: it is one that no file has.
    :raises CommandError: it is relative: there is nothing that it could start at.
    """
    found = path("cwd", cwd)
    if found is not None and not found.startswith("/"):
        raise CommandError(
            f"cwd={found!r}: it must be an absolute path",
            step="chdir",
            errno=errno.EINVAL,
            filename=found,
            remedy="name the directory by the path that it has in the sandbox",
        )
    return found


def instance(name: str, given: object, kind: type) -> None:
    """Check what the argument `name` is.

    :raises TypeError: it is something else.
    """
    if not isinstance(given, kind):
        raise TypeError(f"{name} must be {kind.__name__}, not {given!r}")


def stream(name: str, given: Any) -> None:
    """Check that this can be a standard input or output, as for subprocess.

    :raises TypeError: it is something else, such as a path.
    """
    if given is not None and not isinstance(given, int) and not hasattr(given, "fileno"):
        raise TypeError(
            f"{name} must be an open file, a descriptor, PIPE or DEVNULL, not {given!r}"
        )


def count(name: str, given: int) -> int:
    """The number of things that the argument `name` gives: one at least.

    :raises TypeError: it is no whole number.
    :raises ValueError: it is none, or less.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name} must be a whole number, not {given!r}")
    if given < 1:
        raise ValueError(f"{name} must be 1 or more, not {given}")
    return given


def signal_number(given: int) -> int:
    """Return the number of a signal, or 0, which stands for none (kill(2)).

    :raises TypeError: it is no whole number.
    :raises OSError: there is no such signal (EINVAL), as subprocess has it.
    """
    number = operator.index(given)
    if not 0 <= number < signal.NSIG:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return number


def seconds(name: str, given: float) -> float:
    """The time that the argument `name` gives.

    :raises TypeError: it is no number.
    :raises ValueError: it is no time, or less.
    """
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{name} must be a number of seconds, not {given!r}")
    from usernsctl.commands.keywords import check_timeout

    check_timeout(given, name)
    if not given > 0:
        raise ValueError(f"{name} must be more than 0 seconds, not {given}")
    return given
