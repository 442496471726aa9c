"""Tests of container configurations: gVisor works, or the error names its cause and a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gvisor
import pytest
from connector import of_type

from docker.conftest import CONNECTOR
from docker.engine import TREE, Engine
from docker.matrix import CELLS, REMEDIES, Cell, Remedy, cause_of, table

PAGE = TREE / "docs" / "docker-matrix.md"
WRITE = "USERNSCTL_WRITE_MATRIX"

# File that only a command outside gVisor leaves behind: writes in the sandbox go to an overlay.
TRACE = "ran"
PAYLOAD = [
    *["sh", "-c"],
    f"touch /canary/{TRACE}; cat /proc/version && exec source-declarative-manifest spec",
]
NAMES = {"0": "root", "1000": "airbyte"}

# Maximum number of remedies that are applied one after another.
REMEDIES_MAX = 4


@pytest.fixture(scope="module")
def found_causes() -> dict[Cell, tuple[str, ...]]:
    """Return a dictionary in which the tests record the causes of each cell's failures."""
    return {}


@pytest.fixture
def canary() -> Iterator[Path]:
    """Yield a directory in which every user of any container can create files."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-canary-") as made:
        os.chmod(made, 0o777)
        yield Path(made)


@dataclass
class Attempt:
    """A container's configuration, including the remedies applied so far."""

    cell: Cell
    options: list[str]
    shell: list[str]

    def apply(self, remedy: Remedy) -> None:
        self.options = [one for one in self.options if one not in remedy.drop]
        self.options += remedy.add
        if remedy.shell:
            self.shell.append(remedy.shell)

    def run(self, engine: Engine, canary: Path) -> subprocess.CompletedProcess[str]:
        run = ["/usr/local/bin/in-gvisor", f"--ids={self.cell.ids}", "--", *PAYLOAD]
        options = list(self.options)
        if self.shell:
            options, script = self._as_root(options)
            run = ["sh", "-c", script, "sh", *run]
        return in_container(engine, canary, options, run)

    def _as_root(self, options: list[str]) -> tuple[list[str], str]:
        """Return options and a script with which root applies remedies and starts the command."""
        user = self.cell.user
        name = NAMES.get(user, "someone")
        steps = [step.replace("UID", user).replace("USER", name) for step in self.shell]
        script = " && ".join(steps)
        become = f"setpriv --reuid={user} --regid={user} --clear-groups " if user != "0" else ""
        options = [one for one in options if not one.startswith("--user=")]
        return [*options, "--user=0"], f'{script} && exec {become}"$@"'


def in_container(
    engine: Engine, canary: Path, options: list[str], command: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run a command in a container of the connector's image that mounts `canary` as /canary."""
    options = [*options, f"--volume={canary}:/canary", f"--entrypoint={command[0]}"]
    return engine("run", "--rm", *options, CONNECTOR, *command[1:])


@pytest.mark.parametrize(
    ("engine", "cell"),
    [pytest.param(cell.daemon, cell, id=str(cell)) for cell in CELLS],
    indirect=["engine"],
)
@pytest.mark.sampled(7)
def test_suggested_remedies_make_the_container_run(
    engine: Engine, cell: Cell, canary: Path, found_causes: dict[Cell, tuple[str, ...]]
) -> None:
    attempt = Attempt(cell, list(cell.options), [])
    causes: list[str] = []
    while (done := attempt.run(engine, canary)).returncode != 0:
        assert done.returncode == 125, done.stderr
        assert done.stdout == ""
        causes.append(cause_of(done))
        assert len(causes) <= REMEDIES_MAX, causes
        remedy = REMEDIES[causes[-1]]
        assert remedy.text in " ".join(done.stderr.split())
        attempt.apply(remedy)
    version, *lines = done.stdout.splitlines()
    assert gvisor.BUILD in version
    (spec,) = of_type([json.loads(line) for line in lines], "SPEC")
    assert "connectionSpecification" in spec
    assert list(canary.iterdir()) == []
    assert tuple(causes) == cell.causes
    found_causes[cell] = cell.causes


def test_a_payload_outside_gvisor_leaves_its_trace(plain: Engine, canary: Path) -> None:
    done = in_container(plain, canary, [], PAYLOAD)
    assert done.returncode == 0, done.stderr
    assert gvisor.BUILD not in done.stdout
    assert [trace.name for trace in canary.iterdir()] == [TRACE]


@pytest.mark.thorough
def test_the_page_lists_the_found_causes(found_causes: dict[Cell, tuple[str, ...]]) -> None:
    if len(found_causes) < len(CELLS):
        pytest.skip("not every cell has been run, and come out as expected")
    text = table(found_causes)
    if os.environ.get(WRITE):
        PAGE.write_text(text)
    assert PAGE.read_text() == text, f"run {WRITE}=1 make docker"
