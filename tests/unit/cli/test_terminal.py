"""What a terminal shows, where rich, an extra, is installed and where it is not."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import usernsctl

INSTALLED = Path(usernsctl.__file__).parent.parent
RICH = ("rich", "pygments", "markdown_it", "mdurl")


@pytest.fixture
def without_rich(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that has all that this one has, but rich and what it needs."""
    place = tmp_path / "packages"
    place.mkdir()
    for entry in INSTALLED.iterdir():
        if entry.name not in ("sitecustomize.py", *RICH) and entry.suffix != ".pth":
            (place / entry.name).symlink_to(entry)
    return {"PYTHONPATH": str(place)}


def shown(words: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """What the command of an interpreter without packages writes to a terminal, and its status."""
    leader, follower = pty.openpty()
    command = [os.path.realpath(sys.executable), "-m", "usernsctl", *words]
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100", **environ}
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=environ, cwd="/"
    )
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 65536):
            told += part
    except OSError:  # all that wrote to it have ended
        pass
    finally:
        os.close(leader)
    return process.wait(), told.decode()


def plain(words: list[str], environ: dict[str, str]) -> tuple[int, str]:
    """What it writes to a pipe."""
    done = subprocess.run(
        [os.path.realpath(sys.executable), "-m", "usernsctl", *words],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], **environ},
        cwd="/",
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


VERBS = [["plan", "-r"], ["doctor", "--for", "range", "--no-runsc"]]


@pytest.mark.parametrize("words", VERBS, ids=["plan", "doctor"])
def test_without_rich_a_terminal_gets_what_a_pipe_gets(
    without_rich: dict[str, str], words: list[str]
) -> None:
    on_terminal, on_pipe = shown(words, without_rich), plain(words, without_rich)
    assert "\x1b" not in on_terminal[1]
    assert on_terminal[0] == on_pipe[0]
    # What was tried is tried anew, and may be told with other numbers.
    assert on_terminal[1].splitlines()[0] == on_pipe[1].splitlines()[0]
    assert len(on_terminal[1].splitlines()) == len(on_pipe[1].splitlines())


@pytest.mark.parametrize("words", VERBS, ids=["plan", "doctor"])
def test_with_rich_a_terminal_gets_tables(words: list[str]) -> None:
    environ = {"PYTHONPATH": str(INSTALLED)}
    on_terminal, on_pipe = shown(words, environ), plain(words, environ)
    assert "\x1b[1m" in on_terminal[1]
    assert on_terminal[0] == on_pipe[0]
    assert "\x1b" not in on_pipe[1]


def test_rich_is_an_extra_and_nothing_else_needs_it() -> None:
    wanted = metadata.requires("usernsctl") or []
    assert [one for one in wanted if one.startswith("rich")] == ['rich>=13; extra == "rich"']
