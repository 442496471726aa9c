"""Tests of start_timeout, the timeout for starting a command."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from inside import PATIENCE
from processes import wait_for_threads

import usernsctl as un
from usernsctl._core import calls
from usernsctl._core.calls import _CHILD

# Timeout in seconds for starts that are expected to time out. The program of the fixture `stuck`
# must stop itself within that time.
SHORT = 1


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace usernsctl-child, which root inside could stop, with a program that stops itself."""
    program = tmp_path / "child"
    program.write_text("#!/bin/sh\nkill -STOP $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(calls, "_CHILD", os.fsencode(program))


def check_late(error: un.NamespaceError, started: float) -> None:
    assert (error.cause, error.step, error.errno) == ("start-timeout", "clone", errno.ETIMEDOUT)
    assert "stopped by signal 19" in str(error)
    assert time.monotonic() - started < PATIENCE


STARTS: dict[str, Callable[[], object]] = {
    "Popen": lambda: un.Popen(["true"], start_timeout=SHORT),
    "run": lambda: un.run(["true"], start_timeout=SHORT),
    "call": lambda: un.call(["true"], start_timeout=SHORT),
    "check_output": lambda: un.check_output(["true"], start_timeout=SHORT),
    "spawn": lambda: un.spawn(["true"], start_timeout=SHORT),
    # `timeout` limits the whole run of the command, and `start_timeout` only its start.
    "run, timeout": lambda: un.run(["true"], start_timeout=SHORT, timeout=PATIENCE),
}


@pytest.mark.usefixtures("stuck")
@pytest.mark.parametrize("way", STARTS)
def test_start_timeout_ends_a_hanging_start(way: str) -> None:
    started = time.monotonic()
    with pytest.raises(un.NamespaceError) as caught:
        STARTS[way]()
    check_late(caught.value, started)


@pytest.mark.usefixtures("stuck")
@pytest.mark.parametrize("start_timeout", [None, PATIENCE])
@pytest.mark.parametrize("call", [un.run, un.call, un.check_output])
def test_timeout_includes_the_start(
    call: Callable[..., object], start_timeout: float | None
) -> None:
    with pytest.raises(un.TimeoutExpired) as caught:
        call(["true"], timeout=SHORT, start_timeout=start_timeout)
    assert (caught.value.cmd, caught.value.timeout) == (["true"], SHORT)


def test_the_time_of_the_start_counts_for_timeout() -> None:
    for call in (un.run, un.call):
        with pytest.raises(un.TimeoutExpired) as caught:
            call(["sleep", "1000"], timeout=SHORT)
        assert caught.value.timeout == SHORT


@pytest.mark.parametrize("start_timeout", [None, 1e9, float("inf"), PATIENCE])
def test_a_start_within_its_timeout_succeeds(start_timeout: float | None) -> None:
    assert un.run(["true"], start_timeout=start_timeout, timeout=PATIENCE).returncode == 0


@pytest.mark.parametrize("call", [un.Popen, un.run, un.call, un.spawn])
def test_invalid_start_timeouts_raise(call: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="start_timeout must be a number of seconds, not '5'"):
        call(["true"], start_timeout="5")
    with pytest.raises(ValueError, match="start_timeout must be a number of seconds, not nan"):
        call(["true"], start_timeout=float("nan"))


def test_a_hanging_start_does_not_block_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the event loop keeps running, and that a cancelled start's thread exits."""

    async def ticks(work: asyncio.Task[object]) -> int:
        count = 0
        while not work.done():
            await asyncio.sleep(0.01)
            count += 1
        return count

    async def main(namespace: un.Namespace) -> None:
        work = asyncio.create_task(namespace.create_subprocess_exec("true", start_timeout=SHORT))
        assert await ticks(work) > 3
        error = work.exception()
        assert isinstance(error, un.NamespaceError)
        assert error.cause == "start-timeout"
        work = asyncio.create_task(namespace.create_subprocess_exec("true", start_timeout=PATIENCE))
        await asyncio.sleep(SHORT)
        begun = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert time.monotonic() - begun < PATIENCE / 2

    with un.Namespace.create() as namespace:
        go_on = tmp_path / "go-on"
        os.mkfifo(go_on)
        program = tmp_path / "child"
        program.write_text(f'#!/bin/sh\nread line <{go_on}; exec {os.fsdecode(_CHILD)} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setattr(calls, "_CHILD", os.fsencode(program))
        asyncio.run(main(namespace))
        # Let the program that replaces usernsctl-child continue, so that the cancelled start's
        # thread exits.
        go_on.write_text("x\n")
    wait_for_threads()
