"""Each way to run a container either runs the command in gVisor, or says why not and what helps."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from docker.conftest import PRELUDE
from docker.engine import TREE, Engine
from docker.matrix import CELLS, REFUSED, REMEDIES, Cell, Remedy, table

PAGE = TREE / "docs" / "docker-matrix.md"
WRITE = "USERNSCTL_WRITE_MATRIX"

GVISOR = "#1 SMP Sun Jan 10 15:06:54 PST 2016"
# It leaves a trace outside, so that it can't have run unnoticed.
PAYLOAD = ["sh", "-c", "touch /canary/ran && cat /proc/version"]

# More remedies than this after another are no help.
REMEDIES_MAX = 4


@pytest.fixture(scope="module")
def found() -> dict[Cell, tuple[str, ...]]:
    """The causes that were named in each cell."""
    return {}


@pytest.fixture
def canary() -> Iterator[Path]:
    """A directory that every user of every container can reach and write to."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-canary-") as made:
        os.chmod(made, 0o777)
        yield Path(made)


@dataclass
class Attempt:
    """A way to run a container, as it becomes when remedies are applied."""

    cell: Cell
    options: list[str]
    shell: list[str]

    def apply(self, remedy: Remedy) -> None:
        self.options = [one for one in self.options if one not in remedy.drop]
        self.options += remedy.add
        if remedy.shell:
            self.shell.append(remedy.shell)

    def run(self, engine: Engine, canary: Path) -> subprocess.CompletedProcess[str]:
        ids = ["--map-auto"] if self.cell.ids == "all" else []
        run = ["usernsctl", "run", "--bind=/canary:/canary:rw", *ids, "--", *PAYLOAD]
        options = [*self.options, f"--volume={canary}:/canary"]
        if self.shell:
            options, script = self._as_root(options)
            run = ["sh", "-c", script, "sh", *run]
        return engine(
            "run", "--rm", *options, f"--entrypoint={run[0]}", PRELUDE, *run[1:], timeout=120
        )

    def _as_root(self, options: list[str]) -> tuple[list[str], str]:
        """The options and the script with which root does its part before the user's command."""
        user, name = self.cell.user, "root"
        steps = list(self.shell)
        if user != "0":
            name = "someone"
            steps.insert(0, f"useradd --uid={user} -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 {name}")
        script = " && ".join(step.replace("USER", name) for step in steps)
        become = f"setpriv --reuid={user} --regid={user} --clear-groups " if user != "0" else ""
        options = [one for one in options if not one.startswith("--user=")]
        return [*options, "--user=0"], f'{script} && exec {become}"$@"'


def cause_of(done: subprocess.CompletedProcess[str]) -> str:
    """The cause that standard error names."""
    if REFUSED in done.stderr:
        return REFUSED
    named = re.findall(r"^  why: .* \[([a-z-]+)\]$", done.stderr, re.MULTILINE)
    assert len(named) == 1, done.stderr
    return str(named[0])


@pytest.mark.parametrize(
    ("engine", "cell"),
    [pytest.param(cell.daemon, cell, id=str(cell)) for cell in CELLS],
    indirect=["engine"],
)
def test_cell(engine: Engine, cell: Cell, canary: Path, found: dict[Cell, tuple[str, ...]]) -> None:
    attempt = Attempt(cell, list(cell.options), [])
    causes: list[str] = []
    while (done := attempt.run(engine, canary)).returncode != 0:
        assert done.returncode == 125, done.stderr
        assert done.stdout == ""
        assert list(canary.iterdir()) == []
        causes.append(cause_of(done))
        assert len(causes) <= REMEDIES_MAX, causes
        remedy = REMEDIES[causes[-1]]
        assert remedy.text in done.stderr
        attempt.apply(remedy)
    assert GVISOR in done.stdout
    assert [trace.name for trace in canary.iterdir()] == ["ran"]
    assert tuple(causes) == cell.causes
    found[cell] = cell.causes


def test_the_page_tells_what_was_found(found: dict[Cell, tuple[str, ...]]) -> None:
    if len(found) < len(CELLS):
        pytest.skip("not every cell has been run, and come out as expected")
    text = table(found)
    if os.environ.get(WRITE):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, f"run {WRITE}=1 make docker"
