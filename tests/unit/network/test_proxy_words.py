"""Tests of is_proxy(), which recognises a sandbox's proxy by its command line."""

from __future__ import annotations

import pytest

from usernsctl.network.proxy_process import _command, is_proxy

WORDS = _command("3", "4", "5", "text", "box")
MODULE = "usernsctl.network.proxy_child"


def test_command_line_of_a_proxy_is_recognised() -> None:
    assert is_proxy(WORDS, "box")
    assert not is_proxy(WORDS, "other")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["box"],
        ["grep", MODULE, "box"],
        ["python", "-S", "-B", "-I", "-c", "pass", MODULE, "3", "4", "5", "text", "box"],
        ["python", "-S", "-B", "-I", MODULE, "3", "4", "5", "text", "box"],
        [*WORDS[:-1], "more", "box"],
        [WORDS[0], "-v", *WORDS[1:]],
    ],
)
def test_command_line_with_words_of_a_proxy_is_not_one(words: list[str]) -> None:
    assert not is_proxy(words, "box")
