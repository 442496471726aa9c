"""Attacks by root in a namespace, who stops commands while they start in this namespace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept import MAP_WITHOUT_US, without_us
from tally import Tally

import usernsctl as un
from usernsctl.namespaces import named

# Timeout for a start, in seconds.
START = 0.3
# Timeout for everything except a start, in seconds.
PATIENCE = 20

STOPPER = """
import os, signal
print("ready", flush=True)
while True:
    try:
        os.kill(-1, signal.SIGSTOP)
    except ProcessLookupError:
        pass
"""


@pytest.fixture
def hostile(runtime: Path) -> Iterator[un.Namespace]:
    """Create a PID namespace in which a process repeatedly stops all other processes."""
    with un.Namespace.open_or_create("hostile", pid=True) as namespace:
        try:
            stopper = namespace.popen([sys.executable, "-c", STOPPER], stdout=un.PIPE)
            with stopper:
                assert stopper.stdout.readline() == b"ready\n"
                yield namespace
                stopper.kill()
        finally:
            named.remove_named("hostile")


# Program that stops the children of a process. The program may signal a child only once the child
# is in the program's own user namespace.
STOPPER_OF_CHILDREN = """
import contextlib, os, signal, sys
children = f"/proc/{sys.argv[1]}/task/{sys.argv[1]}/children"
print("ready", flush=True)
while True:
    for pid in map(int, open(children).read().split()):
        if pid != os.getpid():
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
"""


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@without_us
@pytest.mark.parametrize("more", [{"pid": True}, {"pid": True, "init": True}, {"time": True}])
@pytest.mark.sampled(2)
def test_hostile_stop_of_two_children(more: dict[str, bool], tally: Tally) -> None:
    """Check that no child remains if the first child is stopped before it reports the second."""
    given_up, rounds = 0, tally.rounds(short=20, full=300)
    with un.Namespace.create(MAP_WITHOUT_US) as namespace:
        words = [sys.executable, "-c", STOPPER_OF_CHILDREN, str(os.getpid())]
        with namespace.popen(words, stdout=un.PIPE) as stopper:
            assert stopper.stdout.readline() == b"ready\n"
            before = children()
            while tally.tries < rounds or given_up < rounds // 4:
                tally.tried()
                try:
                    namespace.run(["true"], start_timeout=START, timeout=2 * START, **more)
                except un.TimeoutExpired:
                    pass
                except un.NamespaceError as error:
                    assert error.cause == "start-timeout"
                    given_up += 1
                for pid in children() - before:
                    tally.succeeded(f"a child that nobody knows: {pid}")
                    os.kill(int(pid), signal.SIGKILL)
                    os.waitpid(int(pid), 0)
            stopper.kill()


def test_hostile_stop_of_joining_commands(hostile: un.Namespace, tally: Tally) -> None:
    given_up, rounds = 0, tally.rounds(short=10, full=300)
    # Continue until some command was stopped before its execve(2); otherwise the attack proves
    # nothing.
    while tally.tries < rounds or not given_up:
        tally.tried()
        began = time.monotonic()
        # The whole run also needs a timeout: `start_timeout` has no effect on a command that is
        # stopped after its execve(2).
        try:
            hostile.run(["true"], start_timeout=START, timeout=2 * START)
        except un.TimeoutExpired:
            pass
        except un.NamespaceError as error:
            assert error.cause == "start-timeout"
            given_up += 1
        if time.monotonic() - began > PATIENCE:
            tally.succeeded("a start that hangs")


def test_hostile_stop_of_an_event_loop(hostile: un.Namespace, tally: Tally) -> None:
    pauses: list[float] = []

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            pauses.append(time.monotonic() - began)

    async def main() -> None:
        ticking = asyncio.create_task(tick())
        for _ in range(tally.rounds(short=10, full=300)):
            tally.tried()
            with contextlib.suppress(un.NamespaceError, TimeoutError):
                async with asyncio.timeout(2 * START):
                    process = await hostile.create_subprocess_exec("true", start_timeout=10)
                    async with process:
                        await process.wait()
        ticking.cancel()

    asyncio.run(main())
    if max(pauses) > PATIENCE / 2:
        tally.succeeded("an event loop that stands still")
