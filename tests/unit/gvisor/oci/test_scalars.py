"""Tests of steps.dumps(), which must convert scalars and containers as json.dumps() does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usernsctl.gvisor.launch.steps import dumps


@given(st.text() | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False))
def test_dumps_of_scalars_is_json(value: Any) -> None:
    assert dumps(value) == json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("value", ["", '"\\/', "\x00\x1f\x7f", "\ud800", "ä\u2028", -0.0, 10**30])
def test_dumps_of_unusual_scalars_is_json(value: Any) -> None:
    assert dumps(value) == json.dumps(value, ensure_ascii=False)


def test_dumps_of_containers_is_json() -> None:
    value = {"a": [1, "ä", None, {"b": True}]}
    assert dumps(value) == json.dumps(value, ensure_ascii=False)
    with pytest.raises(TypeError):
        dumps({1, 2})
