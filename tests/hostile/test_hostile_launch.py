"""Attacks on a launch file by another user, by the sandbox that it starts, and with signals.

In most tests, a fake runsc prints what a payload would have obtained (stand_in.c).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import SCRIPTS
from frozen import freeze
from processes import capture, wait_until_gone
from strangers import Stranger, other_users
from tally import Tally

SHORT, FULL = 15, 400

pytestmark = [pytest.mark.also_root, pytest.mark.timeout(600)]


@pytest.fixture
def runsc(place: Path, programs: Path) -> Path:
    """Copy the fake runsc to a directory that the attacker can't change; return its path."""
    directory = place / "bin"
    directory.mkdir()
    return Path(shutil.copy(programs / "runsc", directory))


def attack(tally: Tally, launch: Path, count: int) -> set[str]:
    """Start a launch file `count` times; add the attacker's successes to `tally`.

    :returns: the set of all outputs.
    """
    outputs = set()
    for _ in range(count):
        done = capture(
            [SCRIPTS / "usernsctl-exec", "--launch", launch, "--", "/bin/true"],
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "HOME": "/"},
        )
        tally.tried()
        words = done.stdout.split()
        outputs.add(done.stdout + done.stderr)
        for got in ("evil", "secret"):
            if got in words:
                tally.succeeded(got)
        assert "ours" in words or done.stderr.startswith("usernsctl-exec: "), done.stderr
    return outputs


def started(outputs: set[str]) -> bool:
    """Return whether any start executed the caller's fake runsc, which prints "ours"."""
    return any("ours" in output.split() for output in outputs)


@other_users
@pytest.mark.parametrize("access", ["ro", "rw"])
def test_a_source_becomes_a_link(
    tally: Tally, place: Path, runsc: Path, stranger: Stranger, access: str
) -> None:
    x = stranger.directory / "x"
    options = ["--runsc", str(runsc), "--no-verify", "--bind", f"{x}/data:/data:{access}"]
    for path in (stranger.directory, x, x / "data"):
        path.mkdir(parents=True, exist_ok=True)
    launch = freeze(place / "launch", *options)
    shutil.rmtree(stranger.directory)
    count = tally.rounds(SHORT, FULL)
    with stranger.swaps():
        outputs = attack(tally, launch, count)
    assert started(outputs) or count < FULL, outputs


@other_users
def test_the_root_filesystem_becomes_a_link(
    tally: Tally, place: Path, runsc: Path, stranger: Stranger
) -> None:
    x = stranger.directory / "x"
    x.mkdir(parents=True)
    options = ["--runsc", str(runsc), "--no-verify", "--rootfs", str(x)]
    launch = freeze(place / "launch", *options)
    shutil.rmtree(stranger.directory)
    count = tally.rounds(SHORT, FULL)
    with stranger.swaps():
        outputs = attack(tally, launch, count)
    assert started(outputs) or count < FULL, outputs


@other_users
def test_the_launch_becomes_another_one(tally: Tally, runsc: Path, stranger: Stranger) -> None:
    """Check that another user can't make the caller start a different launch file of the caller.

    That file, to which the attacker's symbolic link leads, mounts a secret.
    """
    options = ["--runsc", str(runsc), "--no-verify"]
    freeze(stranger.secret / "env", *options, "--bind", f"{stranger.secret}:/opt")
    count = tally.rounds(SHORT, FULL)
    with stranger.swaps() as x:
        outputs = attack(tally, x / "env", count)
    # Several errors show that starts have met the attacker's link as well as the attacker's file,
    # which is not a launch file.
    assert len(outputs) > 1 or count < FULL, outputs


@pytest.mark.userns_requires("runsc")
def test_a_launch_that_is_killed_leaves_nothing(tally: Tally, tmp_path: Path) -> None:
    """Kill launches after random delays; check that they leave no process and no file."""
    seconds = f"1{random.randrange(10**6):06}.5"
    (tmp_path / "data").mkdir()
    options = ["--bind", f"{tmp_path}/data:/data:rw"]
    launch = freeze(tmp_path / "launch", *options, command=("sleep", seconds))
    ends = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]
    for number in range(tally.rounds(10, 200)):
        process = subprocess.Popen(
            [SCRIPTS / "usernsctl-exec", "--launch", launch],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(random.random() * random.choice([0.03, 0.4]))
        process.send_signal(ends[number % len(ends)])
        status = process.wait(60)
        tally.tried()
        if status == 0:
            tally.succeeded("an end that looks as if the command had come to its own")
        for left in wait_until_gone(seconds, 10):
            tally.succeeded(left)
    assert os.listdir(tmp_path / "data") == []
