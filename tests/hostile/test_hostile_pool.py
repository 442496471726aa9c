"""Pools: who had a sandbox attacks who has it next, and a program with a pool is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from callers import MAP_OF_SEVERAL, several_ids
from conftest import EXIT_SECONDS, children, files_below, left_children
from tally import Tally

import usernsctl as un

# So long may the first steps take, up to a pool, and so long the others, in seconds.
HOST_SECONDS = 0.4
POOL_SECONDS = 1.5


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def use_pool(told: int) -> None:
    """Take sandboxes, run commands in them and give them back, for ever."""
    uses = 1 + os.getpid() % 2
    with un.SandboxHost() as host, host.pool(2, max_uses=uses, idle_timeout=0.3) as pool:
        os.write(told, b"+")
        for number in range(1 << 30):
            with pool.acquire() as box:
                box.run(["true"])
                with box.popen(["sh", "-c", "setsid sleep 1000 & sleep 1000"]) as command:
                    if number % 2:
                        time.sleep(0.02)
                    command.kill_tree()


def kill_at_random(moments: random.Random) -> None:
    """Have a copy of this process use a pool, and kill it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            use_pool(theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        if moments.random() < 0.2:
            time.sleep(moments.uniform(0, HOST_SECONDS))
        else:
            assert os.read(ours, 1) == b"+"
            time.sleep(moments.uniform(0, POOL_SECONDS))
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    finally:
        os.close(ours)


def test_nothing_is_left_of_a_pool_whose_creator_was_killed(
    tally: Tally,
    runtime: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    # What is there from the first use on.
    un.SandboxHost().close()
    before, kept = set(children()), files_below(runtime)
    for _ in range(tally.rounds(5, 200)):
        kill_at_random(moments)
        tally.tried()
        if found := left_children(before, EXIT_SECONDS):
            tally.succeeded(f"processes: {found}")
        if more := files_below(runtime) - kept:
            tally.succeeded(f"files: {more}")
        if stay := list(temporary.iterdir()):
            tally.succeeded(f"temporary files: {stay}")


# Has gVisor let anybody trace what is of the same user (Yama's ptrace_scope), and tells which of
# the processes that were there before, and stay, it could make its own.
TAKING = """
import ctypes, os

libc, own = ctypes.CDLL(None), os.getpid()
with open("/proc/sys/kernel/yama/ptrace_scope", "w") as scope:
    scope.write("0")
print("ready")
for pid in [name for name in os.listdir("/proc") if name.isdigit() and int(name) != own]:
    if libc.ptrace(0x4206, int(pid), None, None) == 0:
        print(pid, open(f"/proc/{pid}/cmdline").read())
"""


@pytest.mark.userns_requires("runsc")
@pytest.mark.parametrize("idmap", [(), pytest.param((MAP_OF_SEVERAL,), marks=several_ids)])
def test_no_process_that_stays_can_be_taken_over(idmap: tuple[un.IdMap], tally: Tally) -> None:
    """Whoever is process 1 is there in the next block, too, and could look into all that runs."""
    with un.SandboxHost(*idmap) as host, host.pool(1, limit=1, max_uses=2) as pool:
        with pool.acquire(EXIT_SECONDS) as one:
            told = one.check_output(["/usr/bin/python3", "-c", TAKING], text=True).splitlines()
            assert told[0] == "ready"
            tally.tried()
            for line in told[1:]:
                tally.succeeded(line)
        with pool.acquire(EXIT_SECONDS) as again:
            assert again is one
            again.run(["true"], check=True)
