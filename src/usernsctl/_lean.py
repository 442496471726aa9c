"""Replacements for :mod:`dataclasses` and :mod:`typing` that are fast to import.

All dataclasses of this package are defined with this module. The standard :mod:`dataclasses`
imports :mod:`inspect` (which imports :mod:`ast`), and compiles the methods of each class whenever a
program imports the class; that took a third of the start time of ``usernsctl run``. The methods in
this module are compiled only once. Type checkers and the functions of :mod:`dataclasses` treat
these classes as dataclasses.

The names mean the same as in :mod:`dataclasses`, with four restrictions: no class inherits from
another, annotations are strings (``from __future__ import annotations``), every class has slots,
and ``order=True`` requires ``frozen=True``.

Importing :mod:`typing` takes as long as importing twenty modules of this package. If no other
module has imported :mod:`typing`, this module defines placeholders for its names. They suffice,
because annotations that are strings are not evaluated.
"""

from __future__ import annotations

import sys
from importlib import import_module

# False at run time; type checkers treat TYPE_CHECKING as true.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from dataclasses import asdict as asdict
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
        """Placeholder for :class:`typing.Literal`; supports subscripts such as ``Literal["a"]``."""

        def __class_getitem__(cls, choice):
            return str

    def TypeVar(name, *, bound=None):
        """Return a placeholder for a type variable."""
        return object

    def runtime_checkable(cls):
        """Return the class unchanged, in place of :func:`typing.runtime_checkable`."""
        return cls


class LateModule:
    """Stand-in for a module that is imported when an attribute is read.

    If annotations contain the stand-in, :func:`typing.get_type_hints`, which pydantic calls, reads
    the attributes.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self._name), name)


class _Missing:
    """Type of the marker for fields that have no default value."""


_MISSING = _Missing()


class _Field:
    """A field of a dataclass, with the attribute names of :class:`dataclasses.Field`."""

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

    def make_default(self) -> Any:
        """Return the default value; ``_MISSING`` if the field has none."""
        if self.default_factory is not _MISSING:
            return self.default_factory()
        return self.default


class _LateAttribute:
    """An attribute of a class that is computed when it is first read."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> Any:
        value = self._compute(owner)
        setattr(owner, self._name, value)
        return value


class _Record:
    """The methods of all dataclasses that this module creates."""

    __slots__ = ()

    # _dataclass() sets these class attributes.
    __match_args__: tuple[str, ...]
    _own_fields: tuple[_Field, ...]
    _options: dict[str, bool]

    __dataclass_fields__ = _LateAttribute(lambda cls: _twin(cls).__dataclass_fields__)
    __dataclass_params__ = _LateAttribute(lambda cls: _twin(cls).__dataclass_params__)
    __signature__ = _LateAttribute(lambda cls: _signature(cls))

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        values: dict[str, Any] = dict(zip(self.__match_args__, args, strict=False))
        if len(values) < len(args) or not values.keys().isdisjoint(kwargs):
            _refuse(type(self), args, kwargs)
        values.update(kwargs)
        for each in self._own_fields:
            value = values.pop(each.name, _MISSING)
            if value is _MISSING and (value := each.make_default()) is _MISSING:
                _refuse(type(self), args, kwargs)
            object.__setattr__(self, each.name, value)
        if values:
            _refuse(type(self), args, kwargs)
        self.__post_init__()

    def __post_init__(self) -> None:
        pass

    def __repr__(self) -> str:
        shown = (
            f"{each.name}={getattr(self, each.name)!r}" for each in self._own_fields if each.repr
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> Any:
        return _compared(self) == _compared(other) if type(self) is type(other) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __replace__(self, /, **changes: Any) -> Any:
        return type(self)(
            **{each.name: getattr(self, each.name) for each in self._own_fields} | changes
        )


class _Frozen(_Record):
    """The methods of frozen dataclasses."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        _refuse_change(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        _refuse_change(f"cannot delete field {name!r}")

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(_compared(self))

    def __getstate__(self) -> list[Any]:
        return [getattr(self, each.name) for each in self._own_fields]

    def __setstate__(self, state: list[Any]) -> None:
        for each, value in zip(self._own_fields, state, strict=True):
            object.__setattr__(self, each.name, value)


class _Ordered(_Frozen):
    """The methods of frozen dataclasses with ``order=True``."""

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
    return tuple([getattr(of, each.name) for each in of._own_fields if each.compare])


def _refuse_change(reason: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(reason)


def _refuse(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
    """Raise the TypeError of :mod:`dataclasses` for arguments that a class does not accept."""
    _twin(cls)(*args, **kwargs)
    raise AssertionError(f"{cls.__qualname__} takes {args} and {kwargs}")


def _twin(cls: Any) -> Any:
    """Return a class that :mod:`dataclasses` generates from the fields of `cls`."""
    import dataclasses

    listed = []
    for each in cls._own_fields:
        options = {"metadata": each.metadata, "repr": each.repr, "compare": each.compare}
        for name in ("default", "default_factory"):
            if (value := getattr(each, name)) is not _MISSING:
                options[name] = value
        listed.append((each.name, each.type, dataclasses.field(**options)))
    return dataclasses.make_dataclass(cls.__name__, listed, slots=True, **cls._options)


def _signature(cls: type) -> Any:
    import inspect

    return inspect.signature(_twin(cls))


def _methods(of: type) -> dict[str, Any]:
    """Return the methods of `of` and its bases, which _dataclass() copies into other classes."""
    found: dict[str, Any] = {}
    for each in reversed(of.__mro__[:-1]):
        for name, value in vars(each).items():
            if name == "__hash__" or callable(value) or isinstance(value, _LateAttribute):
                found[name] = value
    return found


_PLAIN, _FROZEN, _ORDERED = map(_methods, (_Record, _Frozen, _Ordered))


def _dataclass(*, slots: bool, **options: bool) -> Callable[[type], type]:
    """Return a decorator that does what :func:`dataclasses.dataclass` does."""
    methods = _ORDERED if options.get("order") else _FROZEN if options.get("frozen") else _PLAIN

    def make(plain: type) -> type:
        assert slots
        assert plain.__bases__ == (object,)
        own = tuple(_fields_of(plain))
        names = tuple([each.name for each in own])
        body = methods | vars(plain)
        for name in ("__dict__", "__weakref__", *names):
            body.pop(name, None)
        body["__slots__"] = names
        body["__match_args__"] = () if options.get("kw_only") else names
        body["_own_fields"] = own
        body["_options"] = options
        cls = type(plain.__name__, (), body)
        cls.__qualname__ = plain.__qualname__
        return cls

    return make


def _fields_of(plain: type) -> Iterator[_Field]:
    defaults = vars(plain)
    for name, kind in plain.__annotations__.items():
        default = defaults.get(name, _MISSING)
        each = default if isinstance(default, _Field) else _Field(default=default)
        each.name, each.type = name, kind
        yield each


def _fields(of: Any) -> Any:
    """Return the fields of a class, as :func:`dataclasses.fields` does."""
    return of._own_fields


def _asdict(of: Any) -> Any:
    """Convert an object as :func:`dataclasses.asdict` does, without copying immutable values."""
    if hasattr(of, "_own_fields"):
        return {each.name: _asdict(getattr(of, each.name)) for each in of._own_fields}
    if isinstance(of, list | tuple):
        return type(of)(map(_asdict, of))
    if isinstance(of, dict):
        return {name: _asdict(value) for name, value in of.items()}
    return of


def _replace(instance: Any, /, **changes: Any) -> Any:
    """Return a copy with changed fields, as :func:`dataclasses.replace` does."""
    if not hasattr(instance, "_own_fields"):
        # Classes of :mod:`dataclasses` have no method __replace__() before Python 3.13, so call the
        # function.
        import dataclasses

        return dataclasses.replace(instance, **changes)
    return instance.__replace__(**changes)


if not TYPE_CHECKING:
    asdict, dataclass, field, fields, replace = _asdict, _dataclass, _Field, _fields, _replace
