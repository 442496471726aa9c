"""Tests of the usage messages that internal native programs print for wrong arguments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from processes import capture

import usernsctl as un

PROGRAMS = Path(un.__file__).parent / "_bin"
#: Wrong arguments by program. FIRST and SECOND stand for open descriptors.
WRONG = {
    "build": ["x"],
    "detach": ["", "x", "FIRST x"],
    "init": ["", "x", "FIRST x"],
    "network": [
        "",
        "x",
        "FIRST",
        "FIRST SECOND --nothing",
        "FIRST SECOND --pasta=/usr/bin/pasta",
        *(f"FIRST SECOND --listen={port}" for port in ("x", "0:5", "1:x", "1:2", "1:999", "1")),
        *(f"FIRST SECOND --accept={port}" for port in ("x", "0:5", "1:x", "1:2", "1:999", "1")),
        *(f"FIRST SECOND --publish={port}" for port in ("x", "a/x", "a/0:1", "a/1:0", "a/1")),
        "FIRST SECOND --publish=a/1:1/sctp",
    ],
    "probe": ["", "no-such-step", "--within", "--within x clone", "--within 900 --"],
    "watch": ["", "x", "--limits=x", "--nothing"],
}
CASES = [(program, words) for program, wrong in WRONG.items() for words in wrong]


@pytest.mark.parametrize(("program", "words"), CASES)
def test_wrong_arguments_are_refused_with_the_usage(program: str, words: str) -> None:
    first, second = os.pipe()
    try:
        given = words.replace("FIRST", str(first)).replace("SECOND", str(second)).split()
        command = [PROGRAMS / f"usernsctl-{program}", *given]
        done = capture(command, input="", pass_fds=(first, second))
    finally:
        os.close(first)
        os.close(second)
    assert done.returncode in (2, 125)
    assert f"usage: usernsctl-{program} " in done.stderr
