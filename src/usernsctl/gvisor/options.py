"""How the fields of a request are asked for: by options of ``usernsctl run``, and from Python."""

from __future__ import annotations

from collections.abc import Callable

from usernsctl._records import dataclass
from usernsctl._typing import Any
from usernsctl.gvisor import checks
from usernsctl.maps import IdMap, requested


def one_of(*known: str) -> Callable[[str], str]:
    """Make a function that takes one of these words, and raises ValueError for all others."""

    def parse(text: str) -> str:
        if text not in known:
            *most, last = known
            raise ValueError(f"{text!r} must be {', '.join(most)} or {last}")
        return text

    return parse


def is_one_of(*known: str | None) -> Callable[[str, Any], Any]:
    """Make a function that takes an argument which is one of these, and raises ValueError else."""

    def check(name: str, given: Any) -> Any:
        if given not in known:
            words = ", ".join(filter(None, known))
            raise ValueError(f"{name} must be one of {words}, not {given!r}")
        return given

    return check


def as_bool(name: str, given: Any) -> bool:
    """Take anything, for whether it is true."""
    return bool(given)


def as_text(name: str, given: Any) -> Any:
    """Take text, or ``None``.

    :raises TypeError: it is something else.
    """
    if given is not None:
        checks.instance(name, given, str)
    return given


def as_idmap(name: str, given: Any) -> IdMap:
    """Take what stands for a map: see :func:`usernsctl.maps.requested`.

    :raises TypeError: it is something else.
    :raises ValueError: likewise.
    """
    return requested(given, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """An option of ``usernsctl run``.

    :ivar flags: its names, or ``--on/--off`` for a pair.
    :ivar heading: what ``--help`` lists it under.
    :ivar name: what it is known by in cli/run.py; by default the field that it is of.
    :ivar metavar: what stands for its value; ``None`` if it has none.
    :ivar multiple: whether it may be given several times.
    :ivar parse: reads the value, and raises ValueError; by default it stays text.
    :ivar shows_default: whether ``--help`` says the field's default. If not, an option that is left
        out is ``None``, or ``False`` if it takes no value and is no pair.
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

    :ivar name: what it is called there.
    :ivar check: makes of its name and value what the field holds; raises TypeError or ValueError.
    """

    name: str
    check: Callable[[str, Any], Any]


FILES, PROCESS, ISOLATION, RUNSC = "Files", "The command", "Isolation", "runsc"


def by(*options: Option, argument: Argument | None = None) -> dict[str, Any]:
    """The metadata of a field: the options and the argument that it is given by."""
    return {"options": options, "argument": argument}
