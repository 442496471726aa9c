"""Tests that kill random processes of sandboxes with private networks and published ports.

With USERNSCTL_HOSTILE=full, the test kills 20 sandboxes at once, in each of 5 rounds.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import SCRIPTS, files_below
from networks import World
from processes import children_of
from tally import FULL

USERNSCTL = str(SCRIPTS / "usernsctl")
FIRST_PORT = 18100
COUNT, ROUNDS = (20, 5) if FULL else (4, 1)
# Maximum delay before the first kill, in seconds. Some kills come during a start, and most come
# later.
LONGEST_LIFE = 1 + COUNT
PATIENCE = 60


def descendants(pid: int) -> set[int]:
    found, left = set(), [pid]
    while left:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            left += (children := children_of(left.pop()))
            found.update(children)
    return found


def name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "gone"


def reap_orphans(before: set[int]) -> set[int]:
    """Reap orphans; return the remaining descendants that are not in `before`."""
    for pid in set(children_of(os.getpid())) - before:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return descendants(os.getpid()) - before


def traces_in(world: World, directory: Path) -> tuple[str, set[str], str]:
    """Return the simulated host's mounts and listening sockets, and the files below `directory`."""
    mounts = Path(f"/proc/{world.machine.pid}/mountinfo").read_text()
    return mounts, files_below(directory), world.run("ss", "-Hltnu").stdout


def start(world: World, number: int) -> subprocess.Popen[bytes]:
    port = f"{FIRST_PORT + number}:80"
    options = ("--network", "private", "--publish", port, "--publish", f"{port}/udp")
    command = [USERNSCTL, "run", *options, "--", "sleep", "1000"]
    return subprocess.Popen(
        world.command(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill_one(popen: subprocess.Popen[bytes], choice: random.Random) -> str:
    """Kill a random process: the creator or one of its descendants; return the process's name."""
    victim = choice.choice([popen.pid, *sorted(descendants(popen.pid))])
    name = name_of(victim)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(victim, signal.SIGKILL)
    return name


@pytest.mark.timeout(PATIENCE * 3 * ROUNDS)
@pytest.mark.parametrize("number", range(ROUNDS))
def test_killed_private_networks_leave_no_process_or_mount(
    world: World, runtime: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(runtime))
    seed = random.randrange(1 << 32)
    print(f"round {number}, seed {seed}")
    choice = random.Random(seed)
    before, traces = descendants(os.getpid()), traces_in(world, runtime)
    starts = [(start(world, number), choice.uniform(0, LONGEST_LIFE)) for number in range(COUNT)]
    begin = time.monotonic()
    names = []
    for popen, life in sorted(starts, key=lambda item: item[1]):
        time.sleep(max(0, begin + life - time.monotonic()))
        while popen.poll() is None and time.monotonic() < begin + PATIENCE:
            # The sandbox may survive the death of one process, so kill more processes until the
            # creator has exited.
            names.append(kill_one(popen, choice))
            with contextlib.suppress(subprocess.TimeoutExpired):
                popen.wait(2)
    print(names)
    assert [popen.poll() for popen, _ in starts].count(None) == 0
    deadline = time.monotonic() + PATIENCE
    while (left := reap_orphans(before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [(pid, name_of(pid)) for pid in left] == []
    assert traces_in(world, runtime) == traces
