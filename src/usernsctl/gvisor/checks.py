"""Checks of arguments, shared by several modules of ``usernsctl.gvisor``."""

from __future__ import annotations

import errno
import operator
import os
import signal
from collections.abc import Iterable, Mapping

from usernsctl._lean import TYPE_CHECKING, Any, LateModule, dataclass
from usernsctl._system.paths import check_name, check_path
from usernsctl.errors import CommandError

if TYPE_CHECKING:
    from usernsctl.commands import popen
    from usernsctl.commands.arguments import Args, StrOrBytesPath
else:
    # Import usernsctl.commands.popen on first use, because it imports subprocess, which ``usernsctl
    # run`` doesn't need.
    popen = LateModule("usernsctl.commands.popen")


def argv(args: Args) -> tuple[str, ...]:
    """Convert `args`, of any type that subprocess accepts, to a command and its arguments.

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

    :raises TypeError: `id` is not a string.
    :raises ValueError: `id` is malformed.
    """
    if not isinstance(id, str):
        raise TypeError(f"id must be text, not {id!r}")
    return check_name(id, "the id of a sandbox")


#: The greatest uid or gid: the next greater number is -1 as a uid_t, which means "no id"
#: (setresuid(2)).
ID_MAX = 2**32 - 2
#: The maximum length of the name of a user or a group, in bytes, without a NUL (csrc/base/base.h).
NAME_MAX = 256


@dataclass(frozen=True, slots=True)
class NamedUser:
    """A user and a group of a sandbox, at least one of which is given by name.

    :ivar user: the uid, or the name.
    :ivar group: the gid, or the name; ``None`` for the group of the user in /etc/passwd.
    """

    user: int | str
    group: int | str | None

    def __str__(self) -> str:
        """Return the user and the group in the format that :func:`parse_user` parses."""
        return str(self.user) if self.group is None else f"{self.user}:{self.group}"


#: The types that the argument `user` may have.
AnyUser = str | tuple[int, int] | NamedUser


def parse_user(text: str) -> tuple[int, int] | NamedUser:
    """Parse ``USER[:GROUP]``, in which USER and GROUP are numbers or names.

    If USER is a number and GROUP is missing, the gid equals the uid.

    :param text: the user and the group. A part that consists of digits is a number.
    :raises ValueError: `text` has the wrong format.
    """
    first, colon, second = text.partition(":")
    user, group = _id_or_name(first), _id_or_name(second) if colon else None
    if user is None or (colon and group is None):
        raise ValueError(
            f"{text!r} is not UID[:GID] or NAME[:GROUP]; ids are numbers from 0 to {ID_MAX}"
        )
    if isinstance(user, int) and not isinstance(group, str):
        return user, user if group is None else group
    return NamedUser(user, group)


def _id_or_name(text: str) -> int | str | None:
    """Return an int if `text` is an id, `text` itself if it can be a name, else None."""
    if text.isascii() and text.isdecimal():
        is_id = len(text) <= 10 and int(text) <= ID_MAX
        return int(text) if is_id else None
    # Reject a leading + or -, which begins an NIS entry of passwd (nsswitch.conf(5)); a - would
    # also look like a negative number.
    is_name = text[:1] not in ("", "+", "-") and text.isprintable()
    is_name = is_name and len(text.encode()) <= NAME_MAX
    return text if is_name and not set(text) & set(" :,/") else None


def user_of(given: Any) -> tuple[int, int] | NamedUser:
    """Return a user as a pair of uid and gid, or as a NamedUser.

    :param given: a pair of a uid and a gid, a string for :func:`parse_user`, or a NamedUser.
    :raises TypeError: `given` has the wrong type.
    :raises ValueError: a number is not an id, or the string has the wrong format.
    """
    if isinstance(given, NamedUser):
        return given
    if isinstance(given, str):
        try:
            return parse_user(given)
        except ValueError as error:
            raise ValueError(f"user: {error}") from None
    is_pair = isinstance(given, tuple | list) and len(given) == 2
    if not is_pair or not all(isinstance(number, int) for number in given):
        raise TypeError(
            f"user must be a uid and a gid, or text like 'name' or 'name:group', not {given!r}"
        )
    for number in given:
        if not 0 <= number <= ID_MAX:
            raise ValueError(f"user: {number} is not an id: an id is a number from 0 to {ID_MAX}")
    return int(given[0]), int(given[1])


def user_ids(given: Any) -> tuple[int, int]:
    """Return a user as a pair of uid and gid.

    :raises TypeError: `given` has the wrong type.
    :raises ValueError: a number is not an id, or `given` has the name of a user or group.
    """
    user = user_of(given)
    if isinstance(user, NamedUser):
        raise ValueError(f"user: {given!r} has a name, but must consist of ids, as in 1000:1000")
    return user


# The maximum length of a hostname, in bytes, without a NUL (__NEW_UTS_LEN of linux/utsname.h).
HOSTNAME_MAX = 64

# The maximum number of supplementary groups: that many fit into one message to the agent.
_GROUPS_MAX = 4096


def gids(given: Any) -> list[int]:
    """Check `given`, the argument `groups`, and return it as a list of gids.

    :raises TypeError: `given` is not a list of numbers.
    :raises ValueError: a number is not a gid, or there are more than 4096.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"groups must be a list of gids, not {given!r}")
    found = list(given)
    for number in found:
        if not isinstance(number, int):
            raise TypeError(f"groups must be numbers, each a gid, not {number!r}")
        if not 0 <= number <= ID_MAX:
            raise ValueError(f"groups: {number} is not a gid, a number from 0 to {ID_MAX}")
    if len(found) > _GROUPS_MAX:
        raise ValueError(f"groups: {len(found)} gids are too many: the limit is {_GROUPS_MAX}")
    return found


def fits_hostname(text: str) -> bool:
    """Return whether the kernel accepts `text` as a hostname, by its length in bytes."""
    return len(text.encode()) <= HOSTNAME_MAX


def hostname(given: str | None) -> str | None:
    """Check the hostname of a sandbox, and return it; return None for None.

    :raises TypeError: `given` is not a string.
    :raises ValueError: `given` is empty, longer than the kernel allows (64 bytes), has a NUL, or
        can't be encoded in UTF-8.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        raise TypeError(f"hostname must be text, not {given!r}")
    check_utf8("hostname", given)
    if not given or not fits_hostname(given) or "\0" in given:
        raise ValueError(f"hostname must have 1 to {HOSTNAME_MAX} bytes, and no NUL: {given!r}")
    return given


def variables(env: Mapping[str, str] | None) -> dict[str, str]:
    """Check `env`, and return it as a dictionary of strings.

    Errors do not quote values, which may be secret.

    :raises TypeError: `env` is not a mapping of text to text.
    :raises ValueError: a name is empty or contains ``=``, or a name or value contains a NUL
        character.
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
        if not name:
            raise ValueError("env: the name of a variable is empty")
        if "=" in name:
            # Do not quote the rest of the name, which may be a secret value.
            start = name.partition("=")[0]
            raise ValueError(f"env: the variable name that begins with {start!r} contains =")
        if "\0" in name + value:
            where = "a name" if "\0" in name else f"the value of {name!r}"
            raise ValueError(f"env: {where} has a NUL character")
    return found


def check_utf8(name: str, text: str) -> None:
    """Check that `text`, the argument `name`, can be encoded in UTF-8, as JSON requires (RFC 8259).

    :raises ValueError: `text` can't be encoded in UTF-8; the message doesn't quote it.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        reason = "is not UTF-8, as all text in runsc's config.json must be"
        raise ValueError(f"{name} {reason}") from None


def directory_inside(cwd: StrOrBytesPath | None) -> str | None:
    """Check the working directory of a command in a sandbox; return it as a string, or None.

    :raises TypeError: `cwd` is not a path.
    :raises ValueError: `cwd` is empty or has a NUL character.
    :raises CommandError: `cwd` is relative.
    """
    if cwd is None:
        return None
    found = check_path("cwd", cwd)
    assert found is not None
    if not found.startswith("/"):
        raise relative_error(f"cwd={found!r} is not an absolute path", found)
    return found


def relative_error(reason: str, cwd: str) -> CommandError:
    """Return the error for a working directory that is not an absolute path."""
    return CommandError(
        reason,
        step="chdir",
        errno=errno.EINVAL,
        filename=cwd,
        remedy="give the directory's absolute path in the sandbox",
    )


def stream(name: str, given: Any) -> None:
    """Check that `given` is a standard stream of a type that subprocess accepts.

    :raises TypeError: `given` has the wrong type, such as a path.
    :raises ValueError: `given` is a number that is not a descriptor.
    """
    if isinstance(given, int) or not hasattr(given, "fileno"):
        from usernsctl.commands.arguments import check_streams

        check_streams(**{name: given})


def check_no_command(**options: Any) -> None:
    """Check that none of `options` is set, because they need a first command.

    :raises ValueError: an option is set.
    """
    for name, given in options.items():
        if given not in (None, False, popen.DEVNULL):
            raise ValueError(
                f"{name} needs a first command: pass {name} to run() or popen() instead"
            )


def check_streams(
    stdin: Any,
    stdout: Any,
    stderr: Any,
    terminal: bool = False,
    *,
    has_command: bool = True,
) -> None:
    """Check the standard streams of a command.

    :param has_command: whether the sandbox has a first command.
    :raises TypeError: an argument can't be a standard stream.
    :raises ValueError: a number is not a descriptor, `terminal` and a standard stream are both set,
        or `terminal` or a standard stream is set without a first command.
    """
    if not has_command:
        check_no_command(terminal=terminal, stdin=stdin, stdout=stdout, stderr=stderr)
    for name, given in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
        stream(name, given)
        if terminal and given not in (None, popen.DEVNULL):
            raise ValueError(f"{name} and terminal=True exclude each other: {name} is the terminal")


def count(name: str, given: int, least: int = 1) -> int:
    """Return `given`, the argument `name`, if it is an integer not less than `least`.

    :raises TypeError: `given` is not an integer.
    :raises ValueError: `given` is less than `least`.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise TypeError(f"{name} must be a whole number, not {given!r}")
    if given < least:
        raise ValueError(f"{name} must be {least} or more, not {given}")
    return given


def signal_number(given: int) -> int:
    """Return `given` if it is the number of a signal, or 0 (kill(2)).

    :raises TypeError: `given` is not an integer.
    :raises OSError: no signal has this number (EINVAL), as in subprocess.
    """
    number = operator.index(given)
    if not 0 <= number < signal.NSIG:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return number


def seconds(name: str, given: float) -> float:
    """Return `given`, the argument `name`, if it is a number of seconds greater than 0.

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
