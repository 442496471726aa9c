"""Tests of encoding a launch as records (a verb with arguments) and a config.json."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from frozen import decoded
from hypothesis import given
from hypothesis import strategies as st
from launches import FACTS, SEVERAL, launch

from usernsctl import _core
from usernsctl.errors import CommandError, NamespaceError
from usernsctl.gvisor.launch import steps
from usernsctl.gvisor.launch.plan import FreezeOptions, plan_host, plan_run
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.launch.steps import (
    VERBS,
    IfSeveralIds,
    Launch,
    Placeholder,
    Record,
    completed,
    literal,
    pieces,
    record,
)

CSRC = Path(__file__).parents[3] / "csrc"
FROZEN = FreezeOptions(
    programs=((FACTS.runsc_file, (1, "100755", "0123456789abcdef")),),
    remedy="usernsctl freeze",
    ids=("--map-root-user", "--map-auto"),
    env=(record("env-all"), record("env-need", "TERM")),
)

WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_encoded_launch_is_decoded_unchanged() -> None:
    made = launch()
    header, records = decoded(made.encode())
    assert header == ["usernsctl-launch", "2", _core.version()]
    assert records == list(made.records())
    assert records[-1] == Record("end")


@given(words=st.lists(WORD, min_size=1))
def test_any_arguments_are_decoded_unchanged(words: list[str]) -> None:
    made = replace(launch(), watcher=tuple(words))
    _, records = decoded(made.encode())
    assert [one.words[0] for one in records if one.verb == "watch"] == words


@pytest.mark.parametrize(
    "made",
    [
        launch(),
        launch(is_root=True, ids=SEVERAL, network="host", terminal=True),
        launch(tree="/", expose_root=True, runsc_is_script=True, debug_log="/logs", state="/s"),
        launch(binds=(Bind("/a", "/x"), Bind("/a", "/y", False)), sources={"/a": "/a"}),
        plan_run(Request(args=("x",)), replace(FACTS, homes=None, ids=SEVERAL), FROZEN),
        plan_host(
            Request(args=("x",)), replace(FACTS, debug_log="/logs"), ["/lib/init"], "/lib/agent"
        )[0],
    ],
    ids=["plain", "root", "tree", "binds", "frozen", "host"],
)
def test_core_reads_encoded_launches(made: Launch) -> None:
    _core.NativeLaunch(made.encode()).close()


def test_core_knows_the_same_verbs() -> None:
    text = (CSRC / "launch" / "verbs.h").read_text()
    known = set(re.findall(r'VERB\(\w+, "([a-z-]+)"', text))
    assert known == VERBS.keys()


def test_malformed_launch_is_refused() -> None:
    text = launch().encode()
    for wrong in (b"", b"x", text[:-4], text + b"x\0", text.replace(b"scratch", b"scrotch")):
        with pytest.raises(NamespaceError) as caught:
            _core.NativeLaunch(wrong)
        assert caught.value.cause == "launch-malformed"


def test_bytes_that_are_not_utf8_are_kept() -> None:
    made = replace(launch(), scratch=("/\udcff",))
    assert b"scratch\0/\xff\0" in made.encode()


def test_nul_character_is_refused() -> None:
    with pytest.raises(CommandError, match=r"NUL character after '/a'") as caught:
        replace(launch(), scratch=("/a\0b",)).encode()
    assert caught.value.step == "launch"
    assert caught.value.remedy


def test_encoded_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(launch().encode())
    monkeypatch.setattr(steps, "BYTES_MAX", size)
    launch().encode()
    monkeypatch.setattr(steps, "BYTES_MAX", size - 1)
    with pytest.raises(CommandError, match=f"{size} bytes"):
        launch().encode()


def test_number_of_arguments_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    count = launch().encode().count(b"\0")
    monkeypatch.setattr(steps, "WORDS_MAX", count - 1)
    with pytest.raises(CommandError, match=f"{count} strings"):
        launch().encode()


@given(text=st.text())
def test_literal_escapes_at_signs(text: str) -> None:
    made = literal(text)
    assert made.replace("@@", "") == made.replace("@@", "").replace("@", "")
    assert made.replace("@@", "@") == text


@given(config=st.dictionaries(st.text(), JSON))
def test_config_without_placeholders_is_one_json_piece(config: dict[str, object]) -> None:
    (only,) = pieces(config)
    assert json.loads(only.words[0]) == config
    assert completed(config, {}, several=False) == config


def test_placeholders_split_the_json_text() -> None:
    args, cwd = record("json-args"), record("json-cwd")
    config = {
        "a": ["x", Placeholder(args)],
        "b": Placeholder(cwd),
        "c": IfSeveralIds({"d": [1]}),
        "e": None,
    }
    assert pieces(config) == [
        record("json", '{"a": ["x", '),
        args,
        record("json", '], "b": '),
        cwd,
        record("json-several", ', "c": {"d": [1]}'),
        record("json", ', "e": null}\n'),
    ]
    values = {args: ["y", "z"], cwd: "/"}
    whole = {"a": ["x", "y", "z"], "b": "/", "c": {"d": [1]}, "e": None}
    assert completed(config, values, several=True) == whole
    del whole["c"]
    assert completed(config, values, several=False) == whole


def test_record_has_the_arguments_of_its_verb() -> None:
    assert record("bind", 1, "/a", "ro").named == {"source": "1", "inside": "/a", "access": "ro"}
    with pytest.raises(AssertionError):
        record("bind", 1)
    with pytest.raises(KeyError):
        record("unbind")
