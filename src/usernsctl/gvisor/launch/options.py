"""Options of ``usernsctl run``, arguments of SandboxHost, and the parsers of their values."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Mapping

from usernsctl._lean import TYPE_CHECKING, Any, dataclass
from usernsctl._system.paths import ForeignLinkError, open_path
from usernsctl.errors import CommandError, RunscError
from usernsctl.gvisor.oci.builder import Rlimit
from usernsctl.gvisor.runsc.command import DEFAULT_PATH, NETWORKS
from usernsctl.maps import IdMap, requested

if TYPE_CHECKING:
    from usernsctl.gvisor.checks import NamedUser
    from usernsctl.network.names import AllowedName
    from usernsctl.network.ports import PublishedPort
    from usernsctl.network.ranges import AllowedRange


def one_of(*known: str) -> Callable[[str], str]:
    """Return a parser that accepts only the strings `known`, and raises ValueError for others."""

    def parse(text: str) -> str:
        if text not in known:
            *most, last = known
            raise ValueError(f"{text!r} is not {', '.join(most)} or {last}")
        return text

    return parse


def not_empty(what: str) -> Callable[[str], str]:
    """Return a parser that accepts any string but the empty one, for which it raises ValueError.

    An empty string is often the value of an unset shell variable.

    :param what: the noun for the value in the error message, such as ``a path``.
    """

    def parse(text: str) -> str:
        if not text:
            raise ValueError(f"the value must be {what}, not an empty string")
        return text

    return parse


parse_path: Callable[[str], str] = not_empty("a path")


def is_one_of(*known: str | None) -> Callable[[str, Any], Any]:
    """Return a function that checks an argument: only the values in `known` are accepted."""

    def check(name: str, given: Any) -> Any:
        if given not in known:
            words = ", ".join(filter(None, known))
            raise ValueError(f"{name} must be one of {words}, not {given!r}")
        return given

    return check


def as_bool(name: str, given: Any) -> bool:
    """Convert `given`, an argument of any type, to a bool."""
    return bool(given)


def as_idmap(name: str, given: Any) -> IdMap:
    """Convert an argument of a type that :func:`usernsctl.maps.requested` accepts to an id map.

    :raises TypeError: `given` has the wrong type.
    :raises ValueError: `given` is a string, but not the name of an id map.
    """
    return requested(given, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of ``usernsctl run``.

    :ivar flags: the names of the option; a single string ``--on/--off`` for a pair of flags.
    :ivar heading: the heading in ``--help`` under which the option is listed.
    :ivar name: the name of the value in cli/run.py, by default the name of the Request field.
    :ivar metavar: the placeholder for the value in ``--help``, or ``None`` for a flag.
    :ivar multiple: whether the option may be given several times.
    :ivar parse: a function that parses the value or raises ValueError; ``None`` for text.
    :ivar shows_default: whether ``--help`` shows the default of the Request field. If false, the
        value of an omitted option is ``None``, or ``False`` for a flag that is not a pair.
    """

    flags: tuple[str, ...]
    heading: str
    help: str
    name: str | None = None
    metavar: str | None = None
    multiple: bool = False
    parse: Callable[[str], Any] | None = None
    shows_default: bool = False


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of :class:`usernsctl.SandboxHost`.

    :ivar name: the name of the keyword argument.
    :ivar check: a function that takes the argument's name and value, and returns the value for the
        Request field, or raises TypeError or ValueError.
    """

    name: str
    check: Callable[[str, Any], Any]


FILES, PROCESS, ISOLATION, RUNSC = "Files", "The command", "Isolation", "runsc"
LIMITS = "Limits"


def by(*options: Option, argument: Argument | None = None) -> dict[str, Any]:
    """Return the metadata of a Request field: the options and the argument that set the field."""
    return {"options": options, "argument": argument}


def parse_user(text: str) -> tuple[int, int] | NamedUser:
    """Parse the value of ``--user``: see :func:`usernsctl.gvisor.checks.parse_user`.

    :raises ValueError: `text` has the wrong format.
    """
    # Import the module here, because few runs use --user.
    from usernsctl.gvisor import checks

    return checks.parse_user(text)


def parse_hostname(text: str) -> str | None:
    """Check the value of ``--hostname``: see :func:`usernsctl.gvisor.checks.hostname`.

    :raises ValueError: `text` has the wrong length, or can't be encoded in UTF-8.
    """
    return as_hostname("hostname", text)


def as_hostname(name: str, given: Any) -> str | None:
    """Return `given`, the argument `name`, if it is a valid hostname or None.

    :raises TypeError: `given` has the wrong type.
    :raises ValueError: `given` has the wrong length, has a NUL, or can't be encoded in UTF-8.
    """
    # Import the module here, because few runs set a hostname.
    from usernsctl.gvisor import checks

    return checks.hostname(given)


def parse_start_timeout(text: str) -> int:
    """Parse the value of ``--start-timeout``, a number of seconds.

    :raises ValueError: `text` is not an integer from 0 to 1,000,000.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError(f"{text!r} is not a whole number of seconds from 0 to 1000000")
    return int(text)


def parse_allowed(text: str) -> AllowedName | AllowedRange:
    """Parse a value of ``--allow``: see :func:`usernsctl.network.ranges.parse_allowed`.

    :raises ValueError: `text` has the wrong format.
    """
    # Import the module here, because few runs use --allow.
    from usernsctl.network import ranges

    return ranges.parse_allowed(text)


def parse_publish(text: str) -> PublishedPort:
    """Parse the value of ``--publish``: see :class:`usernsctl.network.ports.PublishedPort`.

    :raises ValueError: `text` has the wrong format.
    """
    # Import the module here, because few runs use --publish.
    from usernsctl.network.ports import PublishedPort

    return PublishedPort.parse(text)


def allowed_names(name: str, given: Iterable[AllowedName | str]) -> tuple[Any, ...]:
    """Convert an argument to allowed names or addresses; parse strings as ``--allow`` does.

    :param name: the name of the argument.
    :raises TypeError: `given` is not an iterable of strings and AllowedName objects.
    :raises ValueError: a string has the wrong format, or there are too many elements.
    """
    from usernsctl.network.names import AllowedName, distinct

    rules: list[Any] = []
    for rule in iterable(name, given):
        if not isinstance(rule, str | AllowedName):
            raise TypeError(f"{name} must be a list of NAME[:PORT] or CIDR[:PORT], not {rule!r}")
        rules.append(parse_argument(name, parse_allowed, str(rule)))
    return distinct(rules)


def parse_network(text: str) -> str:
    """Parse the value of ``--network``: ``none``, ``host`` or ``private``.

    :raises RunscError: `text` is ``sandbox``, runsc's own default, which needs root.
    :raises ValueError: `text` is not the name of a network.
    """
    if text == "sandbox":
        raise RunscError(
            "--network sandbox needs root: gVisor's network stack uses a device of this machine",
            step="runsc",
            cause="runsc-rootless-netstack",
            remedy="use --network private, --network host or --network none",
        )
    return one_of(*NETWORKS)(text)


def parser_of_limit(function: str) -> Callable[[str], Any]:
    """Return a parser that imports the module limits when called, and calls its `function`."""

    def parse(text: str) -> Any:
        from usernsctl.gvisor.launch import limits

        return getattr(limits, function)(text)

    return parse


def check_of_limit(function: str) -> Callable[[str, Any], Any]:
    """Return a function that accepts None, and checks other values by `function` of limits.py."""

    def check(name: str, given: Any) -> Any:
        if given is None:
            return None
        from usernsctl.gvisor.launch import limits

        return getattr(limits, function)(name, given)

    return check


def rlimits(name: str, given: Iterable[Rlimit | str]) -> tuple[Rlimit, ...]:
    """Convert an argument to resource limits; parse strings as ``--rlimit`` does.

    :param name: the name of the argument.
    :raises TypeError: `given` is not an iterable of strings and Rlimit objects.
    :raises ValueError: a string is not ``NAME=SOFT[:HARD]``, or an Rlimit has a wrong value.
    """
    limits = []
    for limit in iterable(name, given):
        if not isinstance(limit, str | Rlimit):
            raise TypeError(f"{name} must be a list of NAME=SOFT[:HARD], or Rlimit, not {limit!r}")
        text = limit if isinstance(limit, str) else f"{limit.type}={limit.soft}:{limit.hard}"
        limits.append(parse_argument(name, Rlimit.parse, text))
    return tuple(limits)


def iterable(name: str, given: Any) -> Iterable[Any]:
    """Return `given` if it is iterable, but neither a string nor a path nor a mapping.

    :raises TypeError: `given` has the wrong type.
    """
    is_wrong = isinstance(given, str | bytes | os.PathLike | Mapping)
    if is_wrong or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, not {given!r}")
    return given


def parse_argument(name: str, parse: Callable[[str], Any], text: str) -> Any:
    """Parse a string in the argument `name` with `parse`.

    :raises ValueError: `text` is invalid; the error names the argument.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def as_namespace(name: str, given: Any) -> Any:
    """Return `given` if it is a Namespace, the name of a namespace, or None.

    :raises TypeError: `given` has the wrong type.
    """
    from usernsctl.namespaces.namespace import Namespace

    if given is not None and not isinstance(given, str | Namespace):
        raise TypeError(f"{name} must be a Namespace, or the name of one, not {given!r}")
    return given


# ---- the environment: --env and --env-file -------------------------------------------------------

PASSED_ON = ("PATH", "LANG", "TERM")

# Maximum size of an --env-file, in bytes. The limit is far above the environment of any command,
# and prevents endless reads from a device such as /dev/zero.
_ENV_FILE_BYTES_MAX = 8 << 20

# A pattern for variable names that errors may quote. Other text before a = may be part of a secret
# value.
_PLAIN_NAME = "[A-Z_][A-Z0-9_]{0,39}"


def base_environment(caller: Mapping[str, str], *, everything: bool) -> dict[str, str]:
    """Return the environment variables that a command has by default.

    :param caller: the environment of the caller.
    :param everything: whether the command inherits all environment variables of the caller, secrets
        included.
    """
    if everything:
        return dict(caller)
    inherited = {name: caller[name] for name in PASSED_ON if name in caller}
    inherited.setdefault("PATH", DEFAULT_PATH)
    return inherited


def default_home(uid: int) -> str:
    """Return the default value of HOME for a uid in the sandbox."""
    return "/root" if uid == 0 else "/"


def read_settings(settings: Iterable[str], caller: Mapping[str, str]) -> dict[str, str]:
    """Parse values of ``--env``: ``NAME=VALUE``, or ``NAME`` for the caller's value.

    :raises CommandError: a setting is malformed, or names a variable that is not in the caller's
        environment.
    """
    return dict(_variable(text, where, caller) for text, where in _listed(settings))


def read_env_file(path: str, caller: Mapping[str, str]) -> dict[str, str]:
    """Parse an ``--env-file``, which has one setting per line.

    Empty lines and lines that begin with # are skipped. Quotes are part of a value.

    :raises CommandError: the file can't be read, a line is malformed, or a line names a variable
        that is not in the caller's environment.
    """
    return dict(_variable(text, where, caller) for text, where in _settings_in_file(path))


def names_in(settings: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return the variables that values of ``--env`` set, as pairs of name and value.

    The value None stands for the value that the variable has in the caller's environment.

    :raises CommandError: a setting is malformed.
    """
    return [_name_and_variable(text, where) for text, where in _listed(settings)]


def names_in_env_file(path: str) -> list[tuple[str, str | None]]:
    """Return the variables that an ``--env-file`` sets, as pairs of name and value.

    The value None stands for the value that the variable has in the caller's environment.

    :raises CommandError: the file can't be read, or a line is malformed.
    """
    return [_name_and_variable(text, where) for text, where in _settings_in_file(path)]


def _listed(settings: Iterable[str]) -> list[tuple[str, str]]:
    """Return each value of ``--env`` with its position on the command line, for messages."""
    return [(text, f"--env, number {number}") for number, text in enumerate(settings, 1)]


def _settings_in_file(path: str) -> list[tuple[str, str]]:
    """Return each setting in an ``--env-file`` with its path and line number, for messages."""
    content = _settings_text(path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        # Don't chain the UnicodeDecodeError, which contains the whole file, secrets included.
        line = content.count(b"\n", 0, error.start) + 1
        raise _env_error(
            f"--env-file {path}, line {line}: a byte that is not UTF-8", path
        ) from None
    settings = []
    for number, setting in enumerate(text.split("\n"), 1):
        where = f"--env-file {path}, line {number}"
        if "\0" in setting:
            raise _env_error(f"{where}: a NUL character, which no variable can have", path)
        if setting.strip() and not setting.startswith("#"):
            settings.append((setting.removesuffix("\r"), where))
    return settings


def _settings_text(path: str) -> bytes:
    """Read an ``--env-file``.

    :raises CommandError: the file can't be read, or is too large.
    """
    try:
        content = _read_settings_file(path)
    except OSError as error:
        failed = _env_error(f"--env-file {path}: {error.strerror}", path)
        if isinstance(error, ForeignLinkError):
            failed.explain(cause=error.cause, remedy=error.remedy)
        failed.explain(remedy="name a file that you may read, with a NAME=VALUE in each line")
        raise failed from error
    if len(content) > _ENV_FILE_BYTES_MAX:
        raise _env_error(f"--env-file {path} is longer than {_ENV_FILE_BYTES_MAX} bytes", path)
    return content


def _read_settings_file(path: str) -> bytes:
    """Read at most _ENV_FILE_BYTES_MAX + 1 bytes of an ``--env-file``.

    :raises OSError: the file can't be read, or is a FIFO.
    """
    with open_path(path) as found:
        # Reject a FIFO that has a path, because open(2) blocks until a writer opens it. The shell's
        # <(COMMAND) is a pipe without a path, which the shell has already opened.
        if stat.S_ISFIFO(found.status.st_mode) and found.path.startswith("/"):
            raise OSError(errno.EINVAL, "a FIFO; give a regular file, or in a shell <(COMMAND)")
        with open(found.open(), "rb") as file:
            return file.read(_ENV_FILE_BYTES_MAX + 1)


def _setting(text: str, where: str) -> tuple[str, str | None]:
    """Split ``NAME=VALUE`` into name and value; without ``=``, the value is None."""
    name, equals, value = text.partition("=")
    # Don't quote malformed text, which may be part of a secret value, such as the second line of a
    # private key.
    if not name:
        raise _env_error(f"{where}: the name before the = is missing; write NAME=VALUE or NAME")
    if any(map(str.isspace, name)):
        advice = "write NAME=VALUE or NAME, without spaces and export"
        raise _env_error(f"{where}: the name contains a space; {advice}")
    return name, value if equals else None


def _name_and_variable(text: str, where: str) -> tuple[str, str | None]:
    name, value = _setting(text, where)
    if value is None:
        _refuse_colon(name, where)
    return name, value


def _variable(text: str, where: str, caller: Mapping[str, str]) -> tuple[str, str]:
    name, value = _setting(text, where)
    if value is None and name not in caller:
        import re

        _refuse_colon(name, where)
        if re.fullmatch(_PLAIN_NAME, name):
            raise _env_error(f"{where}: {name} is not set; export {name}, or write {name}=VALUE")
        raise _env_error(f"{where}: the variable is not set; write NAME=VALUE")
    return name, caller[name] if value is None else value


def _refuse_colon(name: str, where: str) -> None:
    import re

    head, colon, _ = name.partition(":")
    if colon and re.fullmatch(_PLAIN_NAME, head):
        raise _env_error(
            f"{where}: {head} is followed by a colon in place of =; write {head}=VALUE"
        )


def _env_error(reason: str, path: str | None = None) -> CommandError:
    return CommandError(reason, step="environment", filename=path)
