"""Tests of usernsctl-exec --launch in which each system call fails, one per run.

Either usernsctl-exec prints one error message and does not run the command, or the command runs
because the failed call was not necessary.
"""

from __future__ import annotations

import collections
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Program
from frozen import freeze, without_sandbox
from injecting import run_with
from tally import Tally

pytestmark = [
    pytest.mark.userns_requires("strace", "runsc"),
    pytest.mark.timeout(600),
]

ERRORS = ("EMFILE", "ENOMEM", "EPERM")

# System calls into which no faults are injected: they never fail, they fail in ways that the test
# can't judge, or libc makes them before main().
LIBC = ("arch_prctl", "brk", "close", "exit_group", "mprotect")


@pytest.fixture
def launch(prelude: Program, tmp_path: Path) -> Path:
    """Create a launch file that contains every kind of step; return its path."""
    for name in ("root/bin", "root/etc", "data/inner"):
        (tmp_path / name).mkdir(parents=True)
    # The launch looks up its command "sh" in this root filesystem. Install a static program, which
    # needs no other files.
    shutil.copy(prelude.path, tmp_path / "root/bin/sh")
    options = [
        *("--rootfs", str(tmp_path / "root"), "--network", "host"),
        *("--bind", f"{tmp_path}/data:/new/data:rw", "--bind", f"{tmp_path}/data/inner:/inner"),
    ]
    made = freeze(tmp_path / "launch", *options)
    without_sandbox(made, "/bin/echo", "ran")
    return made


def calls_of(command: list[str | Path], trace: Path) -> collections.Counter[str]:
    """Count each system call of a command before the last execve(2), except libc's own calls."""
    subprocess.run(["strace", "-f", "-o", trace, "--", *command], check=True, capture_output=True)
    made = re.findall(r"^\d+ +(\w+)\(", trace.read_text().rpartition(" execve(")[0], re.MULTILINE)
    return collections.Counter(name for name in made if name not in LIBC)


def test_each_call_may_fail(prelude: Program, launch: Path, tmp_path: Path, tally: Tally) -> None:
    command = [prelude.path, "--launch", launch]
    counted = calls_of(command, tmp_path / "trace")
    assert len(counted) > 30
    refused = 0
    for name, count in sorted(counted.items()):
        wanted = min(count, tally.rounds(2, 1000))
        for when in random.sample(range(1, count + 1), wanted):
            error = random.choice(ERRORS)
            done = run_with(f"{name}:error={error}:when={when}", command=command)
            tally.tried()
            what = f"{name}, the {when}th: {error}: {done}"
            if (done.returncode, done.stdout, done.stderr) == (0, "ran\n", ""):
                continue
            first, *rest = done.stderr.splitlines() or [""]
            is_told = first.startswith("usernsctl-exec: ") and all(
                line.startswith(("  why: ", "  remedy:", "    ")) for line in rest
            )
            if done.returncode not in (125, 126) or done.stdout or not is_told:
                tally.succeeded(what)
            refused += 1
    assert refused > tally.tries / 3
    assert os.listdir(tmp_path / "data") == ["inner"]


@pytest.mark.parametrize("signal", ["KILL", "TERM", "SEGV"])
def test_a_launch_may_be_killed_at_each_call(
    prelude: Program, launch: Path, tmp_path: Path, tally: Tally, signal: str
) -> None:
    command = [prelude.path, "--launch", launch]
    counted = calls_of(command, tmp_path / "trace")
    every = [(name, when) for name, count in counted.items() for when in range(1, count + 1)]
    for name, when in random.sample(every, tally.rounds(10, 200)):
        done = run_with(f"{name}:signal={signal}:when={when}", command=command)
        tally.tried()
        # A signal that arrives during execve(2) reaches the new program, which may already have
        # printed.
        if done.stdout and name != "execve":
            tally.succeeded(f"{name}, the {when}th: {done}")
