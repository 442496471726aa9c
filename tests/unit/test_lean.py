"""Tests that the dataclasses of _lean behave like those of the standard library."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from typing import Any

import pytest

import usernsctl as un
from usernsctl import _lean
from usernsctl.gvisor.launch.request import Request


def make(module: Any) -> Any:
    class Made:
        @module.dataclass(frozen=True, slots=True, order=True)
        class Extent:
            """Dataclass with three numbers."""

            inside: int
            outside: int
            count: int = 1

            def __iter__(self) -> Any:
                return iter((self.inside, self.outside, self.count))

        @module.dataclass(slots=True, kw_only=True)
        class Setup:
            uid: int = 0
            words: list[str] = module.field(default_factory=list)
            native: object = module.field(repr=False, compare=False, default=None)

            def __post_init__(self) -> None:
                self.uid += 1

    return Made


LEAN, STANDARD = make(_lean), make(dataclasses)
FUNCTIONS = {LEAN: _lean, STANDARD: dataclasses}


def result_of(call: str, made: Any) -> str:
    """Evaluate the expression `call`; return the repr of its value, or its exception."""
    names = {"Extent": made.Extent, "Setup": made.Setup, "dc": dataclasses, "copy": copy}
    names["asdict"] = FUNCTIONS[made].asdict
    try:
        result = repr(eval(call, {**names, "inspect": inspect}))
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return result.replace("make.<locals>.Made.", "")


@pytest.mark.parametrize(
    "call",
    [
        "Extent(0, 7)",
        "Extent(0, outside=7, count=2)",
        "Extent(0)",
        "Extent()",
        "Extent(0, 1, 2, 3)",
        "Extent(0, 1, inside=2)",
        "Extent(0, 1, cout=2)",
        "list(Extent(0, 1))",
        "Extent(0, 1) == Extent(0, 1, 1)",
        "Extent(0, 1) == (0, 1, 1)",
        "Extent(0, 1) < Extent(0, 2) <= Extent(0, 2)",
        "Extent(0, 1) > Extent(0, 2), Extent(1, 2) >= Extent(0, 2)",
        "Extent(0, 1) < 7",
        "sorted([Extent(3, 1), Extent(0, 1)])",
        "hash(Extent(0, 1)) == hash(Extent(0, 1))",
        "setattr(Extent(0, 1), 'count', 2)",
        "delattr(Extent(0, 1), 'count')",
        "Extent.__match_args__, Extent.__slots__, Extent.__bases__, Extent.__doc__",
        "dc.replace(Extent(0, 1), count=9)",
        "dc.replace(Extent(0, 1), cout=9)",
        "dc.asdict(Extent(0, 1))",
        "asdict(Extent(0, 1))",
        "asdict(Setup(words=[Extent(0, 1), {'a': (Extent(2, 3),)}]))",
        "dc.astuple(Extent(0, 1))",
        "dc.is_dataclass(Extent), dc.is_dataclass(Setup())",
        "[(one.name, one.type, one.default) for one in dc.fields(Extent)]",
        "[one.metadata for one in dc.fields(Setup())]",
        "inspect.signature(Extent)",
        "inspect.signature(Setup)",
        "copy.copy(Extent(0, 1)), copy.deepcopy(Setup(words=['a']))",
        "Setup()",
        "Setup(7)",
        "Setup(uid=6) == Setup(uid=6, native=object())",
        "Setup(words=[1]) == Setup(words=[2])",
        "Setup().words is Setup().words",
        "hash(Setup())",
        "Setup.__match_args__",
        "setattr(Setup(), 'nonsense', 1)",
    ],
)
def test_lean_dataclasses_give_the_same_results(call: str) -> None:
    assert result_of(call, LEAN) == result_of(call, STANDARD)


@pytest.mark.parametrize(
    "made",
    [un.Extent(0, 1, 2), un.IdMap.auto(), un.Bind("/a", "/b"), un.Rlimit("RLIMIT_CPU", 1, 2)],
    ids=repr,
)
def test_public_dataclasses_can_be_pickled_and_copied(made: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(made, protocol)) == made
    assert copy.deepcopy(made) == made
    assert _lean.replace(made) == dataclasses.replace(made) == made
    names = [one.name for one in _lean.fields(made)]
    assert names == [one.name for one in dataclasses.fields(made)]


def test_replace_accepts_dataclasses_without_replace_method(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Check that replace() accepts dataclasses without __replace__(), as before Python 3.13."""
    standard = make(dataclasses).Extent
    monkeypatch.delattr(standard, "__replace__", raising=False)
    assert _lean.replace(standard(0, 1), count=9) == standard(0, 1, 9)


def test_request_has_the_same_fields_for_dataclasses() -> None:
    standard = {one.name: one.metadata for one in dataclasses.fields(Request)}
    assert {one.name: one.metadata for one in _lean.fields(Request)} == standard
