"""Tests that config.json is parsed, and written again without changes."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oci_configs import objects, outcome

from usernsctl.errors import BundleError
from usernsctl.gvisor.oci import parse, serialise
from usernsctl.gvisor.oci.schema import MAX_DEPTH, child, describe

numbers = st.integers() | st.decimals(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(st.characters(exclude_categories=["Cs"]))
keys = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(scalars, lambda inner: st.lists(inner) | objects(keys, inner), max_leaves=8)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        (b"", "line 1, column 1", "broken JSON"),
        (b'{\n  "a": 1,\n  "b" 2\n}', "line 3, column 7", "broken JSON"),
        (b'{"a": 1} trailing', "line 1, column 10", "broken JSON"),
        (b'{"a": "\n"}', "line 1, column 8", "broken JSON"),
        (b"\xef\xbb\xbf{}", "line 1, column 1", "broken JSON"),
        (b'{\n"\xc3\xa9": "\xff"}', "line 2, column 7", "is not UTF-8"),
        (b"[1]", "$", "found an array; should be an object"),
        (b"7", "$", "found 7; should be an object"),
        (b'{"a": NaN}', "$.a", "NaN is not JSON"),
        (b'{"a": [-Infinity]}', "$.a[0]", "-Infinity is not JSON"),
        (b'{"a": 1e99999999999999999999}', "$.a", "exponent"),
        (b'{"a": ' + b"9" * 5000 + b"}", "$.a", "a number of 5000 digits"),
        (b'{"a": {"b": 1, "c": 2, "b": 1}}', "$.a.b", "twice"),
        (b'{"a": [{}, {"x y": {"k": 1, "k": 1}}]}', '$.a[1]["x y"].k', "twice"),
        (b'{"hooks": 1, "HOOKS": 2}', "$.HOOKS", 'this key and "hooks" as the same'),
        (b'{"a": {"Prestart": 1, "prestart": 2}}', "$.a.prestart", "as the same"),
        (b'{"hooks": 1, "hoo\\u212as": 2}', '$["hoo\\u212as"]', "as the same"),
        (b'{"ho\xc5\xbftname": 1, "hostname": 2}', "$.hostname", "as the same"),
        (b'{"a": [{"x": 1, "X": 1}]}', "$.a[0].X", "as the same"),
        (b'{"a": ["\\ud800"]}', "$.a[0]", "surrogate"),
        (b'{"a": {"\\udc00": 1}}', "$.a", "surrogate"),
    ],
)
def test_invalid_text_is_refused_with_its_position(text: bytes, where: str, message: str) -> None:
    with pytest.raises(BundleError) as caught:
        parse(text, filename="/b/config.json")
    assert caught.value.reason.startswith(f"/b/config.json: {where}: ")
    assert message in caught.value.reason
    assert caught.value.filename == "/b/config.json"


@pytest.mark.parametrize("opening", [b"[", b'{"k":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_deep_nesting_is_refused(opening: bytes, depth: int) -> None:
    with pytest.raises(BundleError, match=f"more than {MAX_DEPTH} nested objects and arrays"):
        parse(opening * depth)


def test_brackets_in_strings_do_not_nest() -> None:
    text = '[{"\\"' * MAX_DEPTH
    assert parse(json.dumps({"a": text}).encode()) == {"a": text}


def test_deepest_allowed_nesting_is_parsed() -> None:
    depth = MAX_DEPTH - 1
    assert "a" in parse(b'{"a": ' + b"[" * depth + b"]" * depth + b"}")


def test_fractions_are_serialised_unchanged() -> None:
    text = b'{"a": 0.1000000000000000055511151231257827, "b": 2.50}'
    assert serialise(parse(text)).split() == (
        b'{ "a": 0.1000000000000000055511151231257827, "b": 2.50 }'.split()
    )


@given(objects(keys, values, max_size=4))
@settings(deadline=None)
def test_serialised_config_parses_to_the_same(config: dict[str, Any]) -> None:
    again = parse(serialise(config))
    assert again == config
    assert list(again) == list(config)


@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b'{"a":' * 5000)
@example(b"\xed\xa0\x80")
@settings(deadline=None)
def test_any_bytes_give_a_config_or_a_bundleerror(text: bytes) -> None:
    assert isinstance(outcome(parse, text), dict | BundleError)


@pytest.mark.parametrize(
    ("key", "path"),
    [("cwd", "$.cwd"), (3, "$[3]"), ("a.b", '$["a.b"]'), ("", '$[""]'), ('"', '$["\\""]')],
)
def test_json_path_quotes_unusual_keys(key: str | int, path: str) -> None:
    assert child("$", key) == path


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "an empty object"),
        ([0], "an array"),
        (None, "null"),
        (True, "true"),
        ("é\n", '"\\u00e9\\n"'),
        (Decimal("1.50"), "1.50"),
        ("x" * 100, '"' + "x" * 58 + "…"),
    ],
)
def test_descriptions_of_values_are_short(value: object, text: str) -> None:
    assert describe(value) == text
