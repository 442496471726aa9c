"""Short form of `make faults`, with the same randomly chosen faults in each test session."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from callers import as_root
from conftest import TESTS, TREE
from processes import capture
from sampling import tries

pytestmark = [
    pytest.mark.userns_requires("strace"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="injector.c has x86-64's registers"),
]

FAULTS = TESTS / "faults"
SEED = "0"
# User with subordinate id ranges, whom tools/user creates.
USER = "usernsctl-test"


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("injector") / "injector"
    flags = ["-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run(["cc", *flags, FAULTS / "injector.c", "-o", program], check=True)
    return program


def run_matrix(injector: Path, paths: list[str], rounds: int, user: str | None = None) -> None:
    """Inject random faults into each operation; check for undocumented results and leftovers.

    One process runs all operations, because a traced Python starts and imports modules slowly.
    """
    as_user = ["-u", user] if user else []
    given = [f"--rounds={rounds}", f"--seed={SEED}", *(f"--path={path}" for path in paths)]
    # Copy the scripts, because `user` may lack access to pytest's directories.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        for file in ("errnos.py", "matrix.py", "paths.py"):
            (top / file).write_text((FAULTS / file).read_text())
            (top / file).chmod(0o644)
        done = capture(
            [injector, *as_user, sys.executable, "-B", top / "matrix.py", *given],
            timeout=280,
            env=os.environ | {"TMPDIR": "/tmp"},
        )
    assert done.returncode == 0, done
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(paths)
    for outcome in outcomes:
        assert outcome["defects"] == [], done.stderr
        # A run with a fault does not always reach the faulty system call. So check only that some
        # faults have occurred.
        assert sum(outcome["tried"].values()) > 0, outcome


@pytest.mark.also_root
@tries(3, 6)
def test_a_command_may_fail_at_each_call(injector: Path, count: int) -> None:
    paths = ["exec, one id", "exec, forked*", "spawn", "spawn in*", "ns create, exec"]
    run_matrix(injector, paths, count)


@pytest.mark.userns_requires("runsc")
@tries(2, 4)
def test_a_sandbox_may_fail_at_each_call(injector: Path, count: int) -> None:
    run_matrix(injector, ["start", "agent command", "files*", "launch*"], count)


@as_root
@tries(3, 6)
def test_the_helpers_may_fail_at_each_call(injector: Path, count: int) -> None:
    """Check operations in which system calls of newuidmap and newgidmap fail.

    The tracer must be root: if an unprivileged process traces a program, execve(2) ignores the
    program's set-user-ID bit.
    """
    subprocess.run([TREE / "tools" / "user", USER, "ranges"], check=True)
    run_matrix(injector, ["exec, ranges*", "spawn, ranges"], count, USER)
