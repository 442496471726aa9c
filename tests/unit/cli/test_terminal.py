"""Tests of output to a terminal, with and without the optional package rich."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from processes import capture
from terminals import Session, on_terminal

import usernsctl

INSTALLED = Path(usernsctl.__file__).parent.parent
RICH = ("rich", "pygments", "markdown_it", "mdurl")


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which Python finds all installed packages except rich."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in INSTALLED.iterdir():
        if entry.name not in ("sitecustomize.py", *RICH) and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    return {"PYTHONPATH": str(packages)}


def terminal_output(words: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run usernsctl on a terminal, with the base interpreter; return its exit status and output."""
    command = [os.path.realpath(sys.executable), "-m", "usernsctl", *words]
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100", **environ}
    return on_terminal(command, environ)


def pipe_output(words: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """Run usernsctl with a pipe as standard output; return its exit status and output."""
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
# Matches escape sequences that set a colour, but not those for bold or dim text.
COLOUR = r"\x1b\[(\d+;)*[349][0-9][;m]"


# Skip with sanitizers: their interpreter is a file in the virtual environment, not a symbolic link
# out of it, and so imports the environment's rich.
@pytest.mark.unsanitized
@pytest.mark.parametrize("words", VERBS, ids=["plan", "doctor"])
def test_output_without_rich_is_the_same_as_on_a_pipe(
    without_rich: dict[str, str], words: list[str]
) -> None:
    on_terminal, on_pipe = terminal_output(words, without_rich), pipe_output(words, without_rich)
    assert "\x1b" not in on_terminal[1]
    assert on_terminal[0] == on_pipe[0]
    # Numbers in doctor's later lines may differ between runs, so compare only the first line and
    # the number of lines.
    assert on_terminal[1].splitlines()[0] == on_pipe[1].splitlines()[0]
    assert len(on_terminal[1].splitlines()) == len(on_pipe[1].splitlines())


def test_output_with_rich_has_bold_tables() -> None:
    environ = {"PYTHONPATH": str(INSTALLED)}
    on_terminal, on_pipe = terminal_output(DOCTOR, environ), pipe_output(DOCTOR, environ)
    assert "\x1b[1m" in on_terminal[1]
    assert on_terminal[0] == on_pipe[0]
    assert "\x1b" not in on_pipe[1]


@pytest.mark.parametrize(
    "variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["no-color", "dumb"]
)
def test_no_color_and_dumb_terminals_disable_colours(variables: dict[str, str]) -> None:
    """Check that NO_COLOR and a dumb terminal disable colours and bold type.

    See https://no-color.org/. By default, the output is coloured.
    """
    environ = {"PYTHONPATH": str(INSTALLED)}
    assert re.search(COLOUR, terminal_output(DOCTOR, environ)[1])
    output = terminal_output(DOCTOR, environ | variables)[1]
    assert "\x1b" not in output


@pytest.mark.parametrize(
    "words",
    [
        *([], ["--help"], ["run", "--help"], ["ns", "--help"], ["template", "create", "--help"]),
        *(["completion", "--help"], ["ns", "tree"], ["ns", "list"], ["template", "list"]),
        *(["plan", "-r"], ["nonsense"], ["run", "--nonsense"], DOCTOR),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("variables", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"LC_ALL": "C"}])
@pytest.mark.sampled
def test_output_fits_into_80_columns(words: list[str], variables: dict[str, str]) -> None:
    environ = {"PYTHONPATH": str(INSTALLED), "COLUMNS": "80", "LANG": "C.UTF-8"} | variables
    output = re.sub(ESCAPE, "", terminal_output(words, environ)[1]).splitlines()
    assert [line for line in output if len(line) > 80 and not is_command(line)] == []


def is_command(line: str) -> bool:
    """Return whether a line is a command to copy, which must not be wrapped."""
    return line.strip().startswith(("usernsctl ", "usermod ", "docker "))


def test_only_the_extra_rich_requires_rich() -> None:
    requirements = metadata.requires("usernsctl") or []
    assert [requirement for requirement in requirements if requirement.startswith("rich")] == [
        'rich>=13; extra == "rich"'
    ]


def test_explain_reads_a_terminal_until_one_end_of_file() -> None:
    session = Session([sys.executable, "-m", "usernsctl", "explain", "--no-probe"])
    try:
        session.read_until("press Ctrl-D.")
        session.type("newuidmap: write to uid_map failed: Operation not permitted\n")
        session.type("\x04")
        session.read_until("helper-not-setuid")
    finally:
        session.close()
