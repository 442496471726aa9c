"""Tests of output to a terminal, with and without rich, which is optional."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from processes import capture
from terminals import on_terminal

import usernsctl

INSTALLED = Path(usernsctl.__file__).parent.parent
RICH = ("rich", "pygments", "markdown_it", "mdurl")


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which Python has all installed packages except rich."""
    place = tmp_path / "packages"
    place.mkdir()
    for entry in INSTALLED.iterdir():
        if entry.name not in ("sitecustomize.py", *RICH) and entry.suffix != ".pth":
            (place / entry.name).symlink_to(entry)
    return {"PYTHONPATH": str(place)}


def shown(words: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Return the exit status and output of usernsctl on a terminal, without site packages."""
    command = [os.path.realpath(sys.executable), "-m", "usernsctl", *words]
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100", **environ}
    return on_terminal(command, environ)


def plain(words: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Return the exit status and output of usernsctl on a pipe."""
    done = capture(
        [os.path.realpath(sys.executable), "-m", "usernsctl", *words],
        env={"PATH": os.environ["PATH"], **environ},
        cwd="/",
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


DOCTOR = ["doctor", "--for", "range", "--no-runsc"]
VERBS = [["plan", "-r"], DOCTOR]
ESCAPE = r"\x1b\[[0-9;]*m"
# Matches the escape sequences of colours, not those of bold or dim text.
COLOUR = r"\x1b\[(\d+;)*[349][0-9][;m]"


@pytest.mark.parametrize("words", VERBS, ids=["plan", "doctor"])
def test_without_rich_a_terminal_gets_what_a_pipe_gets(
    without_rich: dict[str, str], words: list[str]
) -> None:
    on_terminal, on_pipe = shown(words, without_rich), plain(words, without_rich)
    assert "\x1b" not in on_terminal[1]
    assert on_terminal[0] == on_pipe[0]
    # The doctor probes twice, so numbers in the other lines may differ.
    assert on_terminal[1].splitlines()[0] == on_pipe[1].splitlines()[0]
    assert len(on_terminal[1].splitlines()) == len(on_pipe[1].splitlines())


def test_with_rich_a_terminal_gets_tables() -> None:
    environ = {"PYTHONPATH": str(INSTALLED)}
    on_terminal, on_pipe = shown(DOCTOR, environ), plain(DOCTOR, environ)
    assert "\x1b[1m" in on_terminal[1]
    assert on_terminal[0] == on_pipe[0]
    assert "\x1b" not in on_pipe[1]


@pytest.mark.parametrize("said", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["no-color", "dumb"])
def test_there_is_no_colour_where_none_is_wanted(said: dict[str, str]) -> None:
    """NO_COLOR and a dumb terminal disable colours and bold type.

    See https://no-color.org/. The test also checks that the output has a colour by default.
    """
    environ = {"PYTHONPATH": str(INSTALLED)}
    assert re.search(COLOUR, shown(DOCTOR, environ)[1])
    told = shown(DOCTOR, environ | said)[1]
    assert "\x1b" not in told


@pytest.mark.parametrize(
    "words",
    [
        *([], ["--help"], ["run", "--help"], ["ns", "--help"], ["template", "create", "--help"]),
        *(["completion", "--help"], ["ns", "tree"], ["ns", "list"], ["template", "list"]),
        *(["plan", "-r"], ["nonsense"], ["run", "--nonsense"], DOCTOR),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("said", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C"}])
@pytest.mark.sampled
def test_it_fits_into_80_columns(words: list[str], said: dict[str, str]) -> None:
    environ = {"PYTHONPATH": str(INSTALLED), "COLUMNS": "80", "LANG": "C.UTF-8"} | said
    told = re.sub(ESCAPE, "", shown(words, environ)[1]).splitlines()
    assert [line for line in told if len(line) > 80 and not is_to_be_copied(line)] == []


def is_to_be_copied(line: str) -> bool:
    """Return whether a line is a command for the user to copy, which must not be wrapped."""
    return line.strip().startswith(("usernsctl ", "usermod ", "docker "))


def test_rich_is_an_extra_and_nothing_else_needs_it() -> None:
    wanted = metadata.requires("usernsctl") or []
    assert [one for one in wanted if one.startswith("rich")] == ['rich>=13; extra == "rich"']
