"""Keyword arguments that a function does not have, and times that are none.

Everything that takes ``**options`` checks them here, before anything is started.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import CodeType

from usernsctl._lean import Any


def keywords_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, but for `self`, ``*`` and ``**``."""
    code: CodeType = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return tuple([name for name in names if name != "self"])


def check_keywords(
    function: str, given: Iterable[str], known: Collection[str], hint: str = ""
) -> None:
    """Refuse keyword arguments that a function does not have, as Python itself does.

    :param hint: what to add to the message where no known name is like the one that was given.
    :raises TypeError: there is one.
    """
    for name in given:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f". Did you mean {near[0]!r}?" if near else hint
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def check_timeout(given: Any, name: str = "timeout") -> None:
    """Refuse what is no number of seconds, before anything is started.

    :raises TypeError: it is no number.
    :raises ValueError: it is not a number (NaN), or too large for one.
    """
    try:
        seconds = 0.0 if given is None else given + 0.0
    except TypeError:
        raise TypeError(f"{name} must be a number of seconds, not {given!r}") from None
    except OverflowError:
        raise ValueError(f"{name} is too large for a number of seconds") from None
    if isinstance(seconds, complex):
        raise TypeError(f"{name} must be a number of seconds, not {given!r}")
    if seconds != seconds:
        raise ValueError(f"{name} must be a number of seconds, not {given!r}")
