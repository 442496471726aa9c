"""Tests with a seccomp filter that kills callers of vfork(2), such as Python's subprocess."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from broken_machine import ENVIRONMENT, USERNSCTL, run_broken

pytestmark = pytest.mark.each_user

# Uid as which the commands run if root runs the tests.
NOBODY = 65534

_DIAGNOSED = """
from usernsctl.doctor import diagnose
print(diagnose(runsc=False).probes["one-id-map"].outcome)
"""


@pytest.fixture
def seen_by_all() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-") as made:
        os.chmod(made, 0o755)
        yield Path(made)


def output(*command: str, **env: str) -> str:
    done = run_broken(["seccomp-vfork"], command, env={**ENVIRONMENT, **env})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.userns_requires("runsc")
def test_runsc_is_asked_for_its_release(seen_by_all: Path) -> None:
    # If runsc is a script, usernsctl starts `runsc --version` to learn the release. The cache does
    # not yet contain the release of a new script.
    runsc = seen_by_all / "runsc"
    runsc.write_text('#!/bin/sh\nexec runsc "$@"\n')
    runsc.chmod(0o755)
    assert output(USERNSCTL, "run", "--runsc", str(runsc), "--", "echo", "ran") == "ran\n"


def test_a_named_namespace_is_created(seen_by_all: Path) -> None:
    runtime = seen_by_all / "runtime"
    runtime.mkdir()
    if os.geteuid() == 0:
        os.chown(runtime, NOBODY, NOBODY)
    runtime.chmod(0o700)
    place = {"XDG_RUNTIME_DIR": str(runtime)}
    output(USERNSCTL, "ns", "create", "web", **place)
    assert "web" in output(USERNSCTL, "ns", "list", **place)
    output(USERNSCTL, "ns", "remove", "web", **place)


def test_a_diagnosis_tries_the_steps() -> None:
    assert output(sys.executable, "-c", _DIAGNOSED) == "ok\n"
