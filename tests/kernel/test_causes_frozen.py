"""Tests of the causes that usernsctl-exec reports if a frozen launch fails.

`usernsctl freeze` writes the launch to a file, which usernsctl-exec performs without a Python
interpreter. The causes must be those that `usernsctl run` reports.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_machine import PRELUDE, USERNSCTL, run_broken
from callers import as_root
from conftest import Program

pytestmark = [pytest.mark.each_user, pytest.mark.userns_requires("userns", "runsc")]


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-") as made:
        os.chmod(made, 0o755)
        yield Path(made)


@pytest.mark.parametrize(
    ("way", "options", "cause"),
    [
        ("seccomp-engine", [], "seccomp-denies-userns"),
        ("seccomp-mount", [], "mount-denied"),
        ("seccomp-ptrace", [], "ptrace-denied"),
        ("seccomp-pidfd", [], "seccomp-denies-call"),
        ("seccomp-pidfd-unknown", [], "seccomp-denies-call"),
        ("seccomp-prctl", [], "seccomp-denies-call"),
        pytest.param("powerless-root", [], "needs-setfcap", marks=as_root),
        pytest.param("no-new-privs", ["--map-auto"], "no-new-privs", marks=as_root),
        pytest.param("bounded", ["--map-auto"], "bounding-set", marks=as_root),
        pytest.param("nameless", ["--map-auto"], "no-passwd-entry", marks=as_root),
        pytest.param("no-ranges", ["--map-auto"], "no-subordinate-range", marks=as_root),
        pytest.param("few-ids", ["--map-auto"], "range-outside-parent", marks=as_root),
    ],
)
@pytest.mark.sampled(8)
def test_a_launch_names_the_cause_that_run_names(
    usernsctl: Program, seen_by_all: Path, way: str, options: list[str], cause: str
) -> None:
    """Check that a frozen launch and `usernsctl run` report the same cause and remedy."""
    file = seen_by_all / "launch"
    usernsctl.check_output("freeze", *options, "-o", file, "--", "echo", "ran")
    done = run_broken([way], [PRELUDE, "--launch", str(file)])
    ran = run_broken([way], [USERNSCTL, "run", *options, "--", "echo", "ran"])
    assert (done.returncode, done.stdout) == (125, ""), done.stderr
    assert f" [{cause}]\n" in done.stderr
    assert done.stderr.splitlines()[1:] == ran.stderr.splitlines()[1:]


def test_a_refused_fork_of_the_watcher_is_named(usernsctl: Program, seen_by_all: Path) -> None:
    """Check that the error names fork(2), which fails after the namespaces have been created."""
    file = seen_by_all / "launch"
    assert usernsctl("freeze", "-o", file, "--", "echo", "ran").returncode == 0
    done = run_broken(["seccomp-fork"], [PRELUDE, "--launch", str(file)])
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("usernsctl: clone: fork: Operation not permitted\n")
    assert " [seccomp-denies-call]\n" in done.stderr
