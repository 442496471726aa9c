"""Checks of the names of keyword arguments, and of time limits.

Each function that takes ``**options`` checks the names here, before it starts anything.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from types import CodeType

from usernsctl._lean import Any


def keywords_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, except `self`, ``*`` and ``**``."""
    code: CodeType = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return tuple([name for name in names if name != "self"])


def check_keywords(
    function: str, given: Iterable[str], known: Collection[str], hint: str = ""
) -> None:
    """Check the names of keyword arguments, with the error of Python itself.

    :param function: the name of the function, for the message.
    :param hint: the end of the message if no known name is similar to the unknown one.
    :raises TypeError: a name in `given` is not in `known`.
    """
    for name in given:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            hint = f". Did you mean {near[0]!r}?" if near else hint
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def check_timeout(given: Any, name: str = "timeout") -> None:
    """Check a number of seconds, or None.

    :raises TypeError: `given` is not a real number.
    :raises ValueError: `given` is NaN, or an int that is too large for a float.
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
