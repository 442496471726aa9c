"""Tests of the timeout for a sandbox's start (csrc/programs/watch/start_limit.c)."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program

Run = Callable[..., subprocess.CompletedProcess[str]]

# First lines of a fake runsc, which handle --version. Tests append what other subcommands do.
SCRIPT = """#!/bin/sh
case "$*" in
*--version*) echo 'runsc version release-20240729.0'; echo 'spec: 1.1.0-rc.1'; exit 0 ;;
esac
"""
HANGS = f"{SCRIPT}sleep 1000\n"


def program(directory: Path, text: str) -> str:
    own = directory / "runsc"
    own.write_text(text)
    own.chmod(0o755)
    return str(own)


@pytest.fixture
def run(usernsctl: Program) -> Run:
    return lambda *words: usernsctl("run", *words)


def test_start_timeout_kills_runsc_and_its_children(run: Run, tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("--runsc", program(tmp_path, HANGS), "--start-timeout", "1", "--", "true")
    assert done.returncode == 125, done.stderr
    assert "runsc had not started the sandbox after 1 s" in done.stderr
    assert "[runsc-hung]" in done.stderr
    assert "--start-timeout" in done.stderr.partition("remedy")[2]
    assert time.monotonic() - started < 60


def test_start_timeout_ignores_state_of_created_containers(run: Run, tmp_path: Path) -> None:
    text = f"""{SCRIPT}
for word in "$@"; do case "$word" in --root=*) root=${{word#--root=}} ;; esac; done
echo '{{"id":"x","status":"'$STATUS'"}}' >"$root/$word.state"
exec sleep 6
"""
    for status, cause in {"created": "runsc-hung", "running": "runsc-ran-nothing"}.items():
        own = program(tmp_path, text.replace("$STATUS", status))
        done = run("--runsc", own, "--start-timeout", "4", "--", "true")
        assert (done.returncode, f"[{cause}]" in done.stderr) == (125, True), done.stderr


@pytest.mark.thorough
def test_start_timeout_does_not_limit_a_running_command(run: Run) -> None:
    done = run("--start-timeout", "8", "--", "sh", "-c", "sleep 9; echo ran")
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_start_timeout_zero_disables_the_limit(run: Run, tmp_path: Path) -> None:
    own = program(tmp_path, f"{SCRIPT}sleep 2\n")
    done = run("--runsc", own, "--start-timeout", "0", "--", "true")
    assert (done.returncode, "[runsc-ran-nothing]" in done.stderr) == (125, True), done.stderr


@pytest.mark.parametrize("value", ["-1", "1.5", "x", "", "1000001", "٣"])
def test_invalid_start_timeout_is_refused(run: Run, value: str) -> None:
    done = run("--start-timeout", value, "--", "true")
    assert done.returncode == 125
    assert "--start-timeout" in done.stderr
    assert "0 to 1000000" in done.stderr
