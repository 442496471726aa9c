"""The words of ``usernsctl run`` mean the same, whether click reads them or not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from usernsctl.cli import direct, main, run
from usernsctl.cli.run_click import run_command
from usernsctl.errors import UsernsError

FLAGS = sorted(
    {one for _, option, _ in run.options() for flags in option.flags for one in flags.split("/")}
)
VALUES = ["", "-", "--", "x", "host", "sandbox", "1:2", "a:b:rw", "cpu=1:2", "--bind", "-e", "kvm"]
WORDS = st.one_of(
    st.sampled_from([*FLAGS, *VALUES, "-h", "--help", "-it", "--nonsense", "true"]),
    st.builds("{}={}".format, st.sampled_from(FLAGS), st.sampled_from(VALUES)),
    st.text(max_size=4),
)


def by_click(words: list[str]) -> dict[str, Any] | None:
    """What click reads; ``None`` if it answers itself."""
    try:
        with run_command.make_context("run", list(words), resilient_parsing=False) as context:
            return dict(context.params)
    except (click.exceptions.Exit, click.ClickException, UsernsError):
        return None


@settings(max_examples=400)
@given(st.lists(WORDS, max_size=7))
@example(["--bind", "--", "--", "x"])
@example(["--env=A=B", "--env", "-x", "-"])
@example(["--no-verify", "--verify", "--no-terminal", "--platform", "kvm", "--platform", "ptrace"])
@example(["--expose-root=1"])
@example(["--rootfs"])
@example(["--platform=", "--platform=kvm"])
@example(["--rlimit=x", "--rlimit=nofile=1"])
def test_both_read_the_same(words: list[str]) -> None:
    assert run.read(words) == by_click(words)


class Performed(Exception):
    """In place of a run."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Tells what a call would run, and in which environment."""

    def perform(given: Any, environ: Any) -> None:
        raise Performed({"given": given, "environ": environ})

    monkeypatch.setattr(run, "perform", perform)

    def ask(*words: str) -> dict[str, Any]:
        with pytest.raises(Performed) as caught:
            main(list(words))
        found: dict[str, Any] = caught.value.args[0]
        return found

    return ask


@pytest.mark.parametrize("form", ["--environ-fd={}", "--environ-fd {}"])
def test_the_environment_of_a_descriptor_is_taken(
    asked: Callable[..., dict[str, Any]], tmp_path: Any, form: str
) -> None:
    (tmp_path / "environ").write_bytes(b"A=1\0nothing\0A=2\0")
    number = os.open(tmp_path / "environ", os.O_RDONLY)
    assert asked(*form.format(number).split(), "run", "--", "true")["environ"] == {"A": "1"}
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(number)


def test_a_digit_of_another_script_is_left_to_click() -> None:
    """Which takes it, and the descriptor may be there: so main() would become what is run."""
    assert not direct.run(["--environ-fd=٣", "run", "--", "true"])


@pytest.mark.parametrize("number", ["2", "", "x", "-1"])
def test_what_is_no_descriptor_is_click_s_to_tell(
    capsys: pytest.CaptureFixture[str], number: str
) -> None:
    assert not direct.run([f"--environ-fd={number}", "run", "--", "true"])
    assert main([f"--environ-fd={number}", "run", "--", "true"]) == 125
    assert "--environ-fd" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["plan"], ["run", "--help"], ["run", "--nonsense"], ["-V"]])
def test_other_calls_are_left_alone(words: list[str]) -> None:
    direct.run(words)
