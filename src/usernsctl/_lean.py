"""Dataclasses, and words for annotations, that cost little to import.

:mod:`typing` takes as long to import as twenty modules of ours, and annotations are text here
(``from __future__ import annotations``). So it is imported only where somebody has done so already,
who may want to know what they mean; else the words here stand for it. To type checkers they are the
same.

:mod:`dataclasses` imports :mod:`inspect`, and with that Python's parser, and compiles the methods
of each class whenever it is imported: a third of the time that ``usernsctl run`` took before it did
anything. Here the methods exist already. To type checkers the classes are dataclasses; they are,
too, to the functions of that module, which is only imported for whoever calls one.

What is here has the names and the meaning that it has there, as far as this package needs it: no
class inherits, the annotations are text (``from __future__ import annotations``), every class has
slots, and only a frozen one has an order.
"""

from __future__ import annotations

import sys
from importlib import import_module

# What type checkers take to be true; the modules that have it take long to import.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import fields as fields
    from dataclasses import replace as replace


if TYPE_CHECKING or "typing" in sys.modules:
    from typing import Any as Any
    from typing import BinaryIO as BinaryIO
    from typing import Literal as Literal
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypeVar as TypeVar
    from typing import runtime_checkable as runtime_checkable
else:
    Any = BinaryIO = NoReturn = Protocol = Self = object

    class Literal:
        """A choice of texts."""

        def __class_getitem__(cls, choice):
            return str

    def TypeVar(name, *, bound=None):
        """Stand for a type."""
        return object

    def runtime_checkable(cls):
        """Leave a class as it is."""
        return cls


class LateModule:
    """A module that only annotations name: imported when somebody asks what they mean.

    That is :func:`typing.get_type_hints`, for pydantic and others that look at annotations.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


class _Missing:
    """Stands for a default that a field does not have."""


_MISSING = _Missing()


class _Field:
    """What is known of a field, by the names that :class:`dataclasses.Field` has for it."""

    __slots__ = ("compare", "default", "default_factory", "metadata", "name", "repr", "type")

    def __init__(
        self,
        *,
        default: Any = _MISSING,
        default_factory: Any = _MISSING,
        metadata: Any = None,
        repr: bool = True,
        compare: bool = True,
    ) -> None:
        self.name = self.type = ""
        self.default = default
        self.default_factory = default_factory
        self.metadata = metadata or {}
        self.repr = repr
        self.compare = compare

    def unless_given(self) -> Any:
        """Its value where none is given; ``_MISSING``: there has to be one."""
        if self.default_factory is not _MISSING:
            return self.default_factory()
        return self.default


class _Late:
    """An attribute of a class that few ask for, and that is costly to tell."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        value = self._compute(owner)
        setattr(owner, self._name, value)
        return value


class _Record:
    """The methods of a dataclass."""

    __slots__ = ()

    # What differs between the classes.
    __match_args__: tuple[str, ...]
    _own_fields: tuple[_Field, ...]
    _options: dict[str, bool]

    __dataclass_fields__ = _Late(lambda made: _twin(made).__dataclass_fields__)
    __dataclass_params__ = _Late(lambda made: _twin(made).__dataclass_params__)
    __signature__ = _Late(lambda made: _signature(made))

    def __init__(self, /, *given: Any, **named: Any) -> None:
        values: dict[str, Any] = dict(zip(self.__match_args__, given, strict=False))
        if len(values) < len(given) or not values.keys().isdisjoint(named):
            _refuse(type(self), given, named)
        values.update(named)
        for one in self._own_fields:
            value = values.pop(one.name, _MISSING)
            if value is _MISSING and (value := one.unless_given()) is _MISSING:
                _refuse(type(self), given, named)
            object.__setattr__(self, one.name, value)
        if values:
            _refuse(type(self), given, named)
        self.__post_init__()

    def __post_init__(self) -> None:
        pass

    def __repr__(self) -> str:
        told = (f"{one.name}={getattr(self, one.name)!r}" for one in self._own_fields if one.repr)
        return f"{type(self).__qualname__}({', '.join(told)})"

    def __eq__(self, other: object) -> Any:
        return _compared(self) == _compared(other) if type(self) is type(other) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __replace__(self, /, **changes: Any) -> Any:
        return type(self)(
            **{one.name: getattr(self, one.name) for one in self._own_fields} | changes
        )


class _Frozen(_Record):
    """Those of one that does not change."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        _refuse_change(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        _refuse_change(f"cannot delete field {name!r}")

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(_compared(self))

    def __getstate__(self) -> list[Any]:
        return [getattr(self, one.name) for one in self._own_fields]

    def __setstate__(self, state: list[Any]) -> None:
        for one, value in zip(self._own_fields, state, strict=True):
            object.__setattr__(self, one.name, value)


class _Ordered(_Frozen):
    """Those of one that comes before or after others."""

    __slots__ = ()

    def __lt__(self, other: object) -> Any:
        return _compared(self) < _compared(other) if type(self) is type(other) else NotImplemented

    def __le__(self, other: object) -> Any:
        return _compared(self) <= _compared(other) if type(self) is type(other) else NotImplemented

    def __gt__(self, other: object) -> Any:
        return _compared(self) > _compared(other) if type(self) is type(other) else NotImplemented

    def __ge__(self, other: object) -> Any:
        return _compared(self) >= _compared(other) if type(self) is type(other) else NotImplemented


def _compared(of: Any) -> tuple[Any, ...]:
    return tuple([getattr(of, one.name) for one in of._own_fields if one.compare])


def _refuse_change(reason: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(reason)


def _refuse(made: type, given: tuple[Any, ...], named: dict[str, Any]) -> NoReturn:
    """Raise the TypeError for arguments that a class does not take."""
    _twin(made)(*given, **named)
    raise AssertionError(f"{made.__qualname__} takes {given} and {named}")


def _twin(made: Any) -> Any:
    """A class with the same fields that :mod:`dataclasses` has made."""
    import dataclasses

    listed = []
    for one in made._own_fields:
        options = {"metadata": one.metadata, "repr": one.repr, "compare": one.compare}
        for name in ("default", "default_factory"):
            if (value := getattr(one, name)) is not _MISSING:
                options[name] = value
        listed.append((one.name, one.type, dataclasses.field(**options)))
    return dataclasses.make_dataclass(made.__name__, listed, slots=True, **made._options)


def _signature(made: type) -> Any:
    import inspect

    return inspect.signature(_twin(made))


def _methods(of: type) -> dict[str, Any]:
    """What a class gets from one of those above; it does not inherit it, as from dataclasses."""
    found: dict[str, Any] = {}
    for one in reversed(of.__mro__[:-1]):
        for name, value in vars(one).items():
            if name == "__hash__" or callable(value) or isinstance(value, _Late):
                found[name] = value
    return found


_PLAIN, _FROZEN, _ORDERED = map(_methods, (_Record, _Frozen, _Ordered))


def _dataclass(*, slots: bool, **options: bool) -> Callable[[type], type]:
    """See :func:`dataclasses.dataclass`."""
    methods = _ORDERED if options.get("order") else _FROZEN if options.get("frozen") else _PLAIN

    def make(plain: type) -> type:
        assert slots
        assert plain.__bases__ == (object,)
        own = tuple(_fields_of(plain))
        names = tuple([one.name for one in own])
        body = methods | vars(plain)
        for name in ("__dict__", "__weakref__", *names):
            body.pop(name, None)
        body["__slots__"] = names
        body["__match_args__"] = () if options.get("kw_only") else names
        body["_own_fields"] = own
        body["_options"] = options
        made = type(plain.__name__, (), body)
        made.__qualname__ = plain.__qualname__
        return made

    return make


def _fields_of(plain: type) -> Iterator[_Field]:
    given = vars(plain)
    for name, kind in plain.__annotations__.items():
        default = given.get(name, _MISSING)
        one = default if isinstance(default, _Field) else _Field(default=default)
        one.name, one.type = name, kind
        yield one


def _field(**given: Any) -> Any:
    """See :func:`dataclasses.field`."""
    return _Field(**given)


def _fields(of: Any) -> Any:
    """See :func:`dataclasses.fields`."""
    return of._own_fields


def _replace(instance: Any, /, **changes: Any) -> Any:
    """See :func:`dataclasses.replace`."""
    if not hasattr(instance, "_own_fields"):
        # What it has made itself has the method since Python 3.13 only.
        import dataclasses

        return dataclasses.replace(instance, **changes)
    return instance.__replace__(**changes)


if not TYPE_CHECKING:
    dataclass, field, fields, replace = _dataclass, _field, _fields, _replace
