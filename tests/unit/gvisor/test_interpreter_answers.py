"""Tests of a persistent interpreter's malformed answers, which must not affect the host."""

from __future__ import annotations

import json
import signal
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from interrupts import run_interrupted

from usernsctl._system.descriptors import socket_pair
from usernsctl.gvisor.sandbox.interpreter import ExceptionInfo, Interpreter, _Exchange
from usernsctl.gvisor.sandbox.interpreter_loop import ENVELOPE_BYTES, MESSAGE_BYTES

LIMIT = 1000

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
FIELDS = st.dictionaries(st.sampled_from(["id", "text", "error", "more"]), VALUES)
# Answers that contain all required fields, but may have values of the wrong type.
TYPES = st.fixed_dictionaries(
    {
        "error": st.none() | st.lists(VALUES, min_size=3, max_size=3),
        "text": VALUES,
    }
)
ANSWERS = (
    st.binary() | VALUES.map(json.dumps).map(str.encode) | FIELDS.map(json.dumps).map(str.encode)
)


class Peer:
    """Fake connection from which prepared messages are received, and then end of file."""

    def __init__(self, *messages: bytes) -> None:
        self.messages = list(messages)

    def recv(self, size: int) -> bytes:
        return self.messages.pop(0)[:size] if self.messages else b""


def received(exchange: _Exchange, *messages: bytes) -> Any:
    """Pass `messages` to `exchange`; return the fields of the answer, or None if it is invalid."""
    peer: Any = Peer(*messages)
    while not exchange.receive(peer):
        pass
    return exchange.decode()


def id_of(exchange: _Exchange) -> str:
    return str(json.loads(bytes(exchange._left))["id"])


@hypothesis.given(st.lists(ANSWERS))
def test_answer_with_another_id_is_invalid(messages: list[bytes]) -> None:
    assert received(_Exchange("1", {}, LIMIT), *messages) is None


@hypothesis.given(FIELDS | TYPES)
def test_answer_has_only_the_expected_types(fields: dict[str, Any]) -> None:
    exchange = _Exchange("1", {}, 1 << 20)
    answer = json.dumps({**fields, "id": id_of(exchange)}).encode() + b"\t1\n"
    found = received(exchange, answer[:3], answer[3:])
    if found is None:
        return
    assert isinstance(found.get("text"), str | None)
    error = found.get("error")
    if error is None:
        assert found["value"] == 1
    else:
        assert isinstance(error, ExceptionInfo)
        assert all(isinstance(text, str) for text in error)


def test_whole_answer_in_parts_is_accepted() -> None:
    exchange = _Exchange("1", {}, LIMIT)
    fields = {"id": id_of(exchange), "error": None, "text": "t"}
    answer = json.dumps(fields).encode() + b"\t[1]\n"
    found = received(exchange, *(answer[i : i + 1] for i in range(len(answer))))
    assert found == {"text": "t", "value": [1]}


def test_answer_without_an_end_is_read_up_to_the_limit() -> None:
    exchange = _Exchange("1", {}, LIMIT)
    peer: Any = Peer(*[b"x" * MESSAGE_BYTES] * 9)
    while not exchange.receive(peer):
        pass
    assert exchange.has_answer
    assert exchange.decode() is None
    assert len(exchange._answer) <= LIMIT + ENVELOPE_BYTES + MESSAGE_BYTES
    assert len(peer.messages) == 8


@pytest.mark.parametrize("value", [b"", b"{", b"1" * 5000, b"[" * 100_000, b"\xff"])
def test_value_that_is_not_json_counts_as_none(value: bytes) -> None:
    exchange = _Exchange("1", {}, 1 << 20)
    fields = json.dumps({"id": id_of(exchange), "error": None, "text": "t"}).encode()
    assert received(exchange, fields + b"\t" + value + b"\n") == {"text": "t", "value": None}


def test_answer_without_a_value_is_invalid() -> None:
    exchange = _Exchange("1", {}, LIMIT)
    fields = {"id": id_of(exchange), "error": None, "text": "t"}
    assert received(exchange, json.dumps(fields).encode() + b"\n") is None


def test_closed_connection_raises_no_sigpipe() -> None:
    signals: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, _: signals.append(number))
    try:
        ours, theirs = socket_pair()
        theirs.close()
        with ours:
            assert not _Exchange("1", {}, LIMIT).send(ours)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert signals == []


def test_interrupted_claim_leaves_the_interpreter_free() -> None:
    interpreter = object.__new__(Interpreter)
    interpreter._unclaimed = [None]
    claims = []

    def claim() -> None:
        with interpreter._claim() as is_free:
            claims.append(is_free)
            with interpreter._claim() as is_free_again:
                claims.append(is_free_again)

    number = 1
    while run_interrupted(claim, number):
        assert interpreter._unclaimed == [None], number
        number += 1
    assert number > 10
    assert claims[-2:] == [True, False]
