"""A short form of `make faults`: some system calls of some paths fail, always the same draw."""

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

pytestmark = [
    pytest.mark.userns_requires("strace"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="injector.c has x86-64's registers"),
]

FAULTS = TESTS / "faults"
SEED = "0"
# A user with subordinate ranges, whom tools/user makes.
USER = "usernsctl-test"


@pytest.fixture(scope="module")
def injector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("injector") / "injector"
    flags = ["-Wall", "-Wextra", "-Werror", "-O1"]
    subprocess.run(["cc", *flags, FAULTS / "injector.c", "-o", program], check=True)
    return program


def run_matrix(injector: Path, path: str, rounds: int, user: str | None = None) -> None:
    """Try random faults of one path, and fail if any had an undocumented result."""
    as_user = ["-u", user] if user else []
    given = ["--path", path, "--rounds", str(rounds), "--seed", SEED]
    # The user -u may neither reach nor write pytest's directories.
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
    outcome = json.loads(done.stdout)
    assert outcome["defects"] == [], done.stderr
    # Some faults are drawn for calls that this process does not make.
    assert sum(outcome["tried"].values()) > 0


@pytest.mark.also_root
@pytest.mark.parametrize(
    "path", ["exec, one id", "exec, forked*", "spawn", "spawn in*", "ns create*"]
)
def test_a_command_may_fail_at_each_call(injector: Path, path: str) -> None:
    run_matrix(injector, path, 15)


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("path", ["start", "agent command", "files*", "launch*"])
def test_a_sandbox_may_fail_at_each_call(injector: Path, path: str) -> None:
    run_matrix(injector, path, 6)


@as_root
@pytest.mark.parametrize("path", ["exec, ranges*", "spawn, ranges"])
def test_the_helpers_may_fail_at_each_call(injector: Path, path: str) -> None:
    """Only a privileged tracer lets newuidmap keep its privileges."""
    subprocess.run([TREE / "tools" / "user", USER, "ranges"], check=True)
    run_matrix(injector, path, 12, USER)
