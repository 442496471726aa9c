"""Options of ``usernsctl run``, arguments of SandboxHost, and the checks of their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from usernsctl._lean import TYPE_CHECKING, Any, dataclass
from usernsctl.errors import RunscError
from usernsctl.gvisor.oci.builder import Rlimit
from usernsctl.gvisor.runsc.command import NETWORKS
from usernsctl.maps import IdMap, requested

if TYPE_CHECKING:
    from usernsctl.gvisor.checks import NamedUser
    from usernsctl.network.names import AllowedName
    from usernsctl.network.ports import PublishedPort
    from usernsctl.network.ranges import AllowedRange


def one_of(*known: str) -> Callable[[str], str]:
    """Return a parser that accepts only `known`, and raises ValueError for other strings."""

    def parse(text: str) -> str:
        if text not in known:
            *most, last = known
            raise ValueError(f"{text!r} must be {', '.join(most)} or {last}")
        return text

    return parse


def is_one_of(*known: str | None) -> Callable[[str, Any], Any]:
    """Return a check that accepts only these values, and raises ValueError for others."""

    def check(name: str, given: Any) -> Any:
        if given not in known:
            words = ", ".join(filter(None, known))
            raise ValueError(f"{name} must be one of {words}, not {given!r}")
        return given

    return check


def as_bool(name: str, given: Any) -> bool:
    """Return the truth value of an argument."""
    return bool(given)


def as_text(name: str, given: Any) -> Any:
    """Return an argument that is text or None.

    :raises TypeError: `given` has another type.
    """
    if given is not None and not isinstance(given, str):
        raise TypeError(f"{name} must be str, not {given!r}")
    return given


def as_idmap(name: str, given: Any) -> IdMap:
    """Return the map for an argument, which :func:`usernsctl.maps.requested` accepts.

    :raises TypeError: `given` has another type.
    :raises ValueError: `given` is a text that names no map.
    """
    return requested(given, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of ``usernsctl run``.

    :ivar flags: the names of the option, or ``--on/--off`` for a pair.
    :ivar heading: the heading in ``--help``.
    :ivar name: the name of the value in cli/run.py, by default the name of the field.
    :ivar metavar: the placeholder for the value in ``--help``, or ``None`` for a flag.
    :ivar multiple: whether the option may be given several times.
    :ivar parse: a function that parses the value or raises ValueError; ``None`` for text.
    :ivar shows_default: whether ``--help`` has the field's default. If false, the value of an
        omitted option is ``None``, or ``False`` for a flag that is not a pair.
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

    :ivar name: the name of the argument.
    :ivar check: a function of the argument's name and value that returns the value for the field,
        or raises TypeError or ValueError.
    """

    name: str
    check: Callable[[str, Any], Any]


FILES, PROCESS, ISOLATION, RUNSC = "Files", "The command", "Isolation", "runsc"
LIMITS = "Limits"


def by(*options: Option, argument: Argument | None = None) -> dict[str, Any]:
    """Return the metadata of a field: the options and the argument that set it."""
    return {"options": options, "argument": argument}


def parse_user(text: str) -> tuple[int, int] | NamedUser:
    """Parse the value of ``--user``: see :func:`usernsctl.gvisor.checks.parse_user`.

    :raises ValueError: `text` has another format.
    """
    # Imported here, since most runs don't have the option.
    from usernsctl.gvisor import checks

    return checks.parse_user(text)


def parse_start_timeout(text: str) -> int:
    """Parse a number of seconds, the value of ``--start-timeout``.

    :raises ValueError: `text` is not a whole number from 0 to a million.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= 7 and int(text) <= 1_000_000):
        raise ValueError(f"{text!r} is not a number of seconds from 0 to 1000000")
    return int(text)


def parse_allowed(text: str) -> AllowedName | AllowedRange:
    """Parse a value of ``--allow``: see :func:`usernsctl.network.ranges.parse_allowed`.

    :raises ValueError: `text` has another form.
    """
    # Imported here, since most runs don't have the option.
    from usernsctl.network import ranges

    return ranges.parse_allowed(text)


def parse_publish(text: str) -> PublishedPort:
    """Parse the value of ``--publish``: see :class:`usernsctl.network.ports.PublishedPort`.

    :raises ValueError: `text` has another form.
    """
    # Imported here, since most runs don't have the option.
    from usernsctl.network.ports import PublishedPort

    return PublishedPort.parse(text)


def allowed_names(name: str, given: Iterable[AllowedName | str]) -> tuple[Any, ...]:
    """Return the names or addresses that a sandbox may reach; text is parsed as by ``--allow``.

    :param name: the name of the argument.
    :raises TypeError: `given` is not a sequence of text and AllowedName.
    :raises ValueError: a text has another form, or there are too many.
    """
    from usernsctl.network.names import AllowedName, distinct

    rules: list[Any] = []
    for rule in iterable(name, given):
        if not isinstance(rule, str | AllowedName):
            raise TypeError(f"{name} must be a list of NAME[:PORT] or CIDR[:PORT], not {rule!r}")
        rules.append(parse_argument(name, parse_allowed, str(rule)))
    return distinct(rules)


def parse_network(text: str) -> str:
    """Parse ``none``, ``host`` or ``private``, the value of ``--network``.

    :raises RunscError: `text` is ``sandbox``, runsc's own default, which needs root.
    :raises ValueError: `text` is another word.
    """
    if text == "sandbox":
        raise RunscError(
            "--network sandbox needs root: runsc would have to take over a network device of this "
            "machine",
            step="runsc",
            cause="runsc-rootless-netstack",
            remedy="use --network private, --network host or --network none",
        )
    return one_of(*NETWORKS)(text)


def parser_of_limit(function: str) -> Callable[[str], Any]:
    """Return a function of :mod:`usernsctl.gvisor.launch.limits`, imported at the first call."""

    def parse(text: str) -> Any:
        from usernsctl.gvisor.launch import limits

        return getattr(limits, function)(text)

    return parse


def check_of_limit(function: str) -> Callable[[str, Any], Any]:
    """Return a check of :mod:`usernsctl.gvisor.launch.limits` that also accepts ``None``."""

    def check(name: str, given: Any) -> Any:
        if given is None:
            return None
        from usernsctl.gvisor.launch import limits

        return getattr(limits, function)(name, given)

    return check


def rlimits(name: str, given: Iterable[Rlimit | str]) -> tuple[Rlimit, ...]:
    """Return the resource limits of an argument; text is parsed as by ``--rlimit``.

    :param name: the name of the argument.
    :raises TypeError: `given` is not a sequence of text and Rlimit.
    :raises ValueError: a text is not ``NAME=SOFT[:HARD]``.
    """
    limits = []
    for limit in iterable(name, given):
        if not isinstance(limit, str | Rlimit):
            raise TypeError(f"{name} must be a list of NAME=SOFT[:HARD], or Rlimit, not {limit!r}")
        limits.append(
            parse_argument(name, Rlimit.parse, limit) if isinstance(limit, str) else limit
        )
    return tuple(limits)


def iterable(name: str, given: Any) -> Iterable[Any]:
    """Return an argument that is iterable, but no text or path.

    :raises TypeError: `given` has another type.
    """
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be a list, not {given!r}")
    return given


def parse_argument(name: str, parse: Callable[[str], Any], text: str) -> Any:
    """Return the result of `parse` for the text of an argument.

    :raises ValueError: `text` is invalid; the error names the argument.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def as_namespace(name: str, given: Any) -> Any:
    """Return an argument that is a Namespace, the name of one, or None.

    :raises TypeError: `given` has another type.
    """
    from usernsctl.namespaces.namespace import Namespace

    if given is not None and not isinstance(given, str | Namespace):
        raise TypeError(f"{name} must be a Namespace, or the name of one, not {given!r}")
    return given
