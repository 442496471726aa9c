"""Tests of run_async(), which runs a command in a sandbox without blocking the event loop."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import open_descriptors
from processes import processes_with, wait_for_threads, wait_until_gone

import usernsctl as un
from usernsctl import gvisor

PATIENCE = 60
LIMIT = 1000

Run = Callable[..., Awaitable["un.Result[Any]"]]


@pytest.fixture(params=["gvisor.run", "box.run"])
def with_run(request: pytest.FixtureRequest, runtime: Path) -> Callable[..., Any]:
    """Return a function that passes gvisor.run_async() or box.run_async() to an async function."""

    async def main(use: Callable[[Run], Awaitable[Any]]) -> Any:
        async with await un.SandboxHost.create_async() as host:
            if request.param == "gvisor.run":
                return await use(functools.partial(gvisor.run_async, host=host))
            async with await host.start_async(None) as box:
                await box.run_async(["true"])
                return await use(box.run_async)

    def call(use: Callable[[Run], Awaitable[Any]]) -> Any:
        before = open_descriptors()
        found = asyncio.run(asyncio.wait_for(main(use), PATIENCE))
        wait_for_threads()
        assert open_descriptors() == before
        return found

    return call


@pytest.mark.sampled(1)
def test_run_async_returns_the_result_of_run(with_run: Callable[..., Any]) -> None:
    async def use(run: Run) -> None:
        script = "cat; echo error >&2; exit 3"
        options: dict[str, Any] = {"capture_output": True, "text": True}
        result = await run(["sh", "-c", script], input="é\r\n", **options)
        assert isinstance(result, un.Result)
        assert (result.returncode, result.reason) == (3, "exited")
        assert (result.stdout, result.stderr) == ("é\n", "error\n")
        assert result.rusage is not None
        result = await run(["sh", "-c", "kill -TERM $$"])
        assert (result.returncode, result.reason, result.stdout) == (-15, "signalled", None)
        data = bytes(range(256)) * 4096
        assert (await run(["cat"], input=data, stdout=un.PIPE)).stdout == data
        assert (await run(["true"], input=data)).returncode == 0
        with pytest.raises(un.CalledProcessError) as caught:
            await run(["sh", "-c", "echo out; exit 4"], stdout=un.PIPE, check=True)
        assert (caught.value.returncode, caught.value.output) == (4, b"out\n")
        with pytest.raises(un.CommandNotFoundError):
            await run(["/none"])
        with pytest.raises(TypeError, match="capture_outputs"):
            await run(["true"], capture_outputs=True)

    with_run(use)


def test_max_output_bounds_the_captured_output(with_run: Callable[..., Any]) -> None:
    async def use(run: Run) -> None:
        result = await run(["seq", "10000"], capture_output=True, max_output=11, text=True)
        assert (result.stdout, result.stdout_truncated) == ("1\n2\n310000\n", 48894 - 11)
        options: dict[str, Any] = {"max_output": LIMIT, "on_overflow": "kill"}
        result = await run(["yes"], capture_output=True, **options)
        assert (result.returncode, result.reason, result.limit) == (-9, "output-limit", LIMIT)
        assert len(result.stdout) == LIMIT

    with_run(use)


def test_a_timeout_kills_the_command(with_run: Callable[..., Any]) -> None:
    async def use(run: Run) -> None:
        word = "1000.375"
        script = f"echo begun; sleep {word}"
        with pytest.raises(un.TimeoutExpired) as caught:
            await run(["sh", "-c", script], capture_output=True, timeout=3)
        assert (caught.value.output, caught.value.stderr) == (b"begun\n", b"")
        assert (caught.value.cmd, caught.value.timeout) == (["sh", "-c", script], 3)

    with_run(use)


@pytest.mark.sampled(1)
def test_a_cancelled_call_kills_the_command(with_run: Callable[..., Any]) -> None:
    async def use(run: Run) -> None:
        for pause in (0, 0.01, 0.2, 1):
            task = asyncio.ensure_future(run(["sh", "-c", "sleep 1000 & sleep 1000"]))
            await asyncio.sleep(pause)
            task.cancel()
            started = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < PATIENCE / 2
        result = await run(["sh", "-c", "cat /proc/[0-9]*/cmdline"], capture_output=True)
        assert b"1000" not in result.stdout.replace(b"sleep 1000 &", b"")

    with_run(use)


def test_a_cancelled_run_leaves_no_process() -> None:
    word = "1000.4375"

    async def main() -> None:
        for pause in (0.05, 0.3, 1):
            task = asyncio.ensure_future(gvisor.run_async(["sleep", word], capture_output=True))
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    wait_for_threads()
    assert wait_until_gone(word, 20) == []


@pytest.mark.sampled(1)
def test_eight_calls_run_at_once(with_run: Callable[..., Any]) -> None:
    async def use(run: Run) -> None:
        calls = [run(["echo", str(n)], capture_output=True, text=True) for n in range(8)]
        found = [result.stdout for result in await asyncio.gather(*calls)]
        assert found == [f"{n}\n" for n in range(8)]

    with_run(use)


def test_a_killed_sandbox_is_the_reason_of_the_result() -> None:
    async def main() -> None:
        async with await un.Sandbox.create_async(None) as box:
            asyncio.get_running_loop().call_later(1, box.kill)
            result = await box.run_async(["sleep", "1000"])
            assert (result.returncode, result.reason) == (-9, "sandbox-ended")
            with pytest.raises(un.SandboxEndedError):
                await box.run_async(["true"])
            assert processes_with(box.id) == []

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
