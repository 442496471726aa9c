"""Tests of the tutorials in docs/tutorials: each command is executed, and its output compared.

A code block after the line `Save this as FILE:` is the content of FILE. In a `console` block, each
command is followed by its expected output, in which an ellipsis stands for any text.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SCRIPTS

TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"
STEP = re.compile(r"(Save\s+this\s+as\s+`([\w.]+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
SECONDS = 120

#: Reason why blocks of `sh`, which show no output, are not executed.
DOCKER = "it takes Docker; tests/docker builds and runs these images"


def steps(page: str) -> Iterator[tuple[str, str, str]]:
    """Yield each code block of `page`: the name of the file to write or "", language, and text."""
    for _, file, language, text in STEP.findall((TUTORIALS / f"{page}.md").read_text()):
        yield file, language, text


def commands(transcript: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console transcript with its expected output."""
    for part in re.split(r"^\$ ", transcript, flags=re.M)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def is_shown(shown: str, printed: str) -> bool:
    """Return whether `printed` matches `shown`, in which an ellipsis stands for any text."""
    # Replace the kernel release: newer releases of gVisor report 4.19.0-gvisor, but the tutorials
    # show the older 4.4.0.
    printed = printed.replace("4.19.0-gvisor", "4.4.0")
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), printed, re.S) is not None


@pytest.mark.sampled(1)
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    "page",
    ["entrypoint", "python", pytest.param("tests", marks=pytest.mark.userns_requires("subid"))],
)
def test_tutorial_prints_the_documented_output(page: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {
        "HOME": str(home),
        "PATH": f"{SCRIPTS}:{os.environ['PATH']}",
        "TMPDIR": str(tmp_path),
        "LANG": "C.UTF-8",
    }
    tried = 0
    for file, language, text in steps(page):
        if file:
            (home / file).write_text(text)
        elif language == "console":
            for command, shown in commands(text):
                done = subprocess.run(
                    ["sh", "-c", command],
                    cwd=home,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=SECONDS,
                )
                assert is_shown(shown, done.stdout), f"{command}\n{done.stdout}"
                tried += 1
        else:
            assert language == "sh", text
            assert all(line.startswith("docker ") for line in text.splitlines()), DOCKER
    assert tried >= 4


def test_every_tutorial_is_tested() -> None:
    assert {path.stem for path in TUTORIALS.iterdir()} == {"entrypoint", "python", "tests"}
