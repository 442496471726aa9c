"""Tests of the parsing of ``usernsctl run`` command lines."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from usernsctl.cli import main
from usernsctl.cli.parser import Answer, Parser, usernsctl
from usernsctl.errors import UsernsError
from usernsctl.gvisor.launch.request import Bind

FLAGS = sorted(usernsctl().find("run").flags)
VALUES = ["", "-", "--", "x", "host", "sandbox", "1:2", "a:b:rw", "cpu=1:2", "--bind", "-e", "kvm"]
WORDS = st.one_of(
    st.sampled_from([*FLAGS, *VALUES, "-h", "--help", "-it", "--nonsense", "true"]),
    st.builds("{}={}".format, st.sampled_from(FLAGS), st.sampled_from(VALUES)),
    st.text(max_size=4),
)
TEXT = st.one_of(st.sampled_from([*FLAGS, *VALUES, "-h", "--nonsense"]), st.text(max_size=4))


def parse_run(*words: str) -> dict[str, Any]:
    return usernsctl().find("run").read(words)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--env", "--map-users", "--wd", "--rootfs"]),
            TEXT.filter(lambda text: text != "--"),
            st.booleans(),
        ),
        max_size=4,
    ),
    st.lists(TEXT, min_size=1, max_size=4),
)
@example([("--env", "-", False), ("--wd", "-x", False)], ["--", "--"])
@example([], ["sh", "-c", "x", "--", "y"])
def test_values_and_command_arguments_are_parsed_unchanged(
    options: list[tuple[str, str, bool]], command: list[str]
) -> None:
    assume(all(value or flag not in ("--wd", "--rootfs") for flag, value, _ in options))
    words: list[str] = []
    expected: dict[str, Any] = {"settings": (), "map_users": (), "cwd": None, "rootfs": None}
    names = {"--env": "settings", "--map-users": "map_users", "--wd": "cwd"}
    for flag, value, is_one_word in options:
        words += [f"{flag}={value}"] if is_one_word else [flag, value]
        name = names.get(flag, "rootfs")
        expected[name] = (*expected[name], value) if expected[name] is not None else value
        if name in ("cwd", "rootfs"):
            expected[name] = value
    parsed = parse_run(*words, "--", *command)
    assert {name: parsed[name] for name in expected} == expected
    assert parsed["command"] == tuple(command)
    if command[0][:1] != "-":
        assert parse_run(*words, *command)["command"] == tuple(command)


@settings(max_examples=400)
@given(st.lists(WORDS, max_size=7))
@example(["--bind", "--", "--", "x"])
@example(["--expose-root=1"])
@example(["--rootfs"])
@example(["--platform=", "--platform=kvm"])
@example(["--rlimit=x", "--rlimit=nofile=1"])
def test_wrong_arguments_raise_usage_or_usernserror(words: list[str]) -> None:
    try:
        parsed = parse_run(*words)
    except Answer as answer:
        assert answer.text.startswith("Usage: usernsctl run ")
        assert answer.status in (0, 125)
    except UsernsError as error:
        assert "--network sandbox" in str(error)
    else:
        assert parsed.keys() == parse_run().keys()


@pytest.mark.parametrize("words", [["--bind"], ["--bind", "--", "true"], ["--bind=--", "true"]])
def test_missing_option_value_is_reported(words: list[str]) -> None:
    with pytest.raises(Answer, match="Error: --bind needs a value: --bind SRC"):
        parse_run(*words)


@pytest.mark.parametrize(
    ("name", "told"), [("", "1 to 64 bytes"), ("x" * 65, "1 to 64 bytes"), ("\udcff", "not UTF-8")]
)
def test_an_invalid_hostname_is_refused(name: str, told: str) -> None:
    with pytest.raises(Answer, match=f"Error: --hostname: hostname .*{told}"):
        parse_run("--hostname", name, "--", "true")


def test_last_option_of_a_pair_wins() -> None:
    parsed = parse_run("--no-verify", "--verify", "--terminal", "--no-terminal", "--new-privs", "x")
    assert (parsed["verify"], parsed["terminal"], parsed["no_new_privs"]) == (True, False, False)
    assert parse_run("x")["terminal"] is None


def test_values_have_the_types_of_the_request() -> None:
    parsed = parse_run("--bind", "/a:/b:rw", "--user=1:2", "--bind=/c:/d", "--network=host", "x")
    assert parsed["binds"] == (Bind("/a", "/b", read_only=False), Bind("/c", "/d"))
    assert (parsed["user"], parsed["network"]) == ((1, 2), "host")


class Performed(Exception):
    """Exception with which the fake Parser.perform() passes the parsed options to the test."""


@pytest.fixture
def parse_call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that parses a command line into options and environment."""

    def perform(self: Parser, given: Any, environ: Any, words: Any) -> None:
        raise Performed({"given": given, "environ": environ})

    monkeypatch.setattr(Parser, "perform", perform)

    def parse(*words: str) -> dict[str, Any]:
        with pytest.raises(Performed) as caught:
            main(list(words))
        parsed: dict[str, Any] = caught.value.args[0]
        return parsed

    return parse


@pytest.mark.parametrize("form", ["--environ-fd={}", "--environ-fd {}"])
def test_environment_is_read_from_environ_fd(
    parse_call: Callable[..., dict[str, Any]], tmp_path: Any, form: str
) -> None:
    (tmp_path / "environ").write_bytes(b"A=1\0nothing\0A=2\0")
    number = os.open(tmp_path / "environ", os.O_RDONLY)
    assert parse_call(*form.format(number).split(), "run", "--", "true")["environ"] == {"A": "1"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(number)


@pytest.mark.parametrize("number", ["2", "", "x", "-1", "٣", "99999999999", "1000000000"])
def test_invalid_environ_fd_is_refused(capsys: pytest.CaptureFixture[str], number: str) -> None:
    assert main([f"--environ-fd={number}", "run", "--", "true"]) == 125
    output = capsys.readouterr().err
    assert "--environ-fd" in output
    assert "\nUsage: usernsctl [OPTIONS]" in f"\n{output}"
