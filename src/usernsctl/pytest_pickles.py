"""How reports and exceptions get from the child that runs a test to its parent."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Iterator
from typing import Any


def sendable(value: Any) -> Any:
    """The value, with representations in place of those of its parts that can't be pickled."""
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:  # whatever the methods of a stranger's class raise
        if isinstance(value, dict):
            return {key: sendable(part) for key, part in value.items()}
        if isinstance(value, list | tuple):
            return [sendable(part) for part in value]
        return repr(value)
    return value


def describe(error: BaseException) -> list[bytes]:
    """Tell of an exception: the first of these that can be unpickled is it, or comes close."""
    try:
        text = str(error)
    except Exception:  # that of a stranger's class
        text = type(error).__name__
    # What a class wants of its arguments is unknown, but for those of groups.
    grouped = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    parts = [describe(part) for part in grouped]
    found = []
    for candidate in (error, *((cls, text, parts) for cls in type(error).__mro__)):
        with contextlib.suppress(Exception):
            buffer = io.BytesIO()
            _Pickler(buffer).dump(candidate)
            found.append(buffer.getvalue())
    return found


def rebuild(description: list[bytes]) -> BaseException:
    """The exception that :func:`describe` told of, or one of the nearest class that can be had."""
    for data in description:
        with contextlib.suppress(Exception):
            found = _Unpickler(io.BytesIO(data)).load()
            if isinstance(found, tuple):
                cls, text, parts = found
                arguments = [[rebuild(part) for part in parts]] if parts else []
                found = cls.__new__(cls, text, *arguments)
            if isinstance(found, BaseException):
                return found
    return Exception("an exception that can't be told")


class _Pickler(pickle.Pickler):
    """Has names for classes of exceptions that can't be imported, such as pytest's, or local ones.

    The parent has all that its child had when it began.
    """

    def persistent_id(self, value: Any) -> tuple[str, str] | None:
        if isinstance(value, type) and issubclass(value, BaseException):
            return value.__module__, value.__qualname__
        return None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, name: tuple[str, str]) -> type[BaseException]:
        for found in _with_subclasses(BaseException):
            if (found.__module__, found.__qualname__) == name:
                return found
        raise pickle.UnpicklingError(".".join(name))


def _with_subclasses(cls: type[BaseException]) -> Iterator[type[BaseException]]:
    yield cls
    for below in cls.__subclasses__():
        yield from _with_subclasses(below)
