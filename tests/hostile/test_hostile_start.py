"""Root of a kept namespace stops whoever comes in: the start is given up when its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tally import Tally

import usernsctl as un
from usernsctl.namespaces import named

# How long a start may take, and all that is done afterwards.
START = 0.3
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
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[un.Namespace]:
    """A namespace in which somebody stops all others, with a PID namespace: nobody else is hit."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with un.Namespace.open_or_create("hostile", pid=True) as namespace:
        try:
            stopper = namespace.popen([sys.executable, "-c", STOPPER], stdout=un.PIPE)
            with stopper:
                assert stopper.stdout is not None
                assert stopper.stdout.readline() == b"ready\n"
                yield namespace
                stopper.kill()
        finally:
            named.remove_named("hostile")


def test_hostile_stop_of_whoever_enters(hostile: un.Namespace, tally: Tally) -> None:
    given_up, rounds = 0, tally.rounds(short=10, full=300)
    # A check of the attack: some are stopped before they execute the command.
    while tally.tries < rounds or not given_up:
        tally.tried()
        began = time.monotonic()
        # The command may have been executed, and be stopped then.
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
