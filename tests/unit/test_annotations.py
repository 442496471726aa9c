"""Tests that the type hints of the API can be resolved, although usernsctl does not import typing.

typing.get_type_hints() resolves them. Importing typing would delay each start of `usernsctl run`.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from processes import capture

import usernsctl as un
from usernsctl import maps
from usernsctl._system.target import Joinable
from usernsctl.commands.arguments import HasFileno
from usernsctl.gvisor.pool.pool import Starter

WITHOUT = """
import sys
import usernsctl.cli.run, usernsctl.gvisor.launch
assert "typing" not in sys.modules
import typing, usernsctl.maps
assert typing.get_type_hints(usernsctl.maps.IdMap)["fill_users"] is str
"""


def test_type_hints_resolve_to_real_types() -> None:
    hints = typing.get_type_hints(un.IdMap)
    assert hints["fill_users"] is maps.Fill
    assert "subids" in typing.get_args(maps.Fill)


def test_annotations_do_not_import_typing() -> None:
    done = capture([sys.executable, "-c", WITHOUT])
    assert done.returncode == 0, done.stderr


def callables_of(of: Any) -> Iterator[Any]:
    """Yield `of`, then the public objects of a module, or the methods and getters of a class."""
    yield of
    if inspect.ismodule(of):
        for name in of.__all__:
            yield from callables_of(getattr(of, name))
    if not inspect.isclass(of):
        return
    for base in of.__mro__:
        for value in vars(base).values() if base.__module__.startswith("usernsctl") else ():
            plain = value.fget if isinstance(value, property) else value
            if inspect.isfunction(plain := getattr(plain, "__func__", plain)):
                yield plain


def public_callables() -> Iterator[Callable[..., Any]]:
    """Yield all public callables and each of their overloads."""
    for name in un.__all__:
        for one in callables_of(getattr(un, name)):
            if callable(one):
                yield one
                yield from typing.get_overloads(one)


def test_all_public_annotations_can_be_resolved() -> None:
    found = list(public_callables())
    assert len(found) > 250
    for one in found:
        typing.get_type_hints(one, include_extras=True)


# Pairs of a function whose keyword arguments a TypedDict declares, and a key of that TypedDict.
@pytest.mark.parametrize(
    ("function", "keyword"),
    [
        (un.spawn, "cwd"),
        (un.exec, "executable"),
        (un.call, "timeout"),
        (un.enter, "propagation"),
        (un.create_subprocess_exec, "limit"),
        (un.Namespace.create, "uts"),
        (un.Namespace.spawn, "pass_fds"),
        (un.SandboxHost.start, "terminal"),
        (un.gvisor.run, "in_cgroup"),
    ],
)
def test_keywords_of_typed_dicts_can_be_resolved(
    function: Callable[..., Any], keyword: str
) -> None:
    (kwargs,) = [
        one.name
        for one in inspect.signature(function).parameters.values()
        if one.kind is one.VAR_KEYWORD
    ]
    (listed,) = typing.get_args(typing.get_type_hints(function)[kwargs])
    assert keyword in typing.get_type_hints(listed)


@pytest.mark.parametrize("protocol", [HasFileno, Joinable, Starter])
def test_public_protocols_can_be_checked_at_runtime(protocol: type) -> None:
    """Check that public protocols support isinstance(), with which pydantic checks arguments."""
    assert not isinstance(object(), protocol)
    methods = dict.fromkeys(["fileno", "target", "start"], print)
    assert isinstance(type("Made", (), methods)(), protocol)
