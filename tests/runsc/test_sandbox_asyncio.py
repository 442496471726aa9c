"""Tests of Sandbox and SandboxHost in an event loop, which no operation may block."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import open_descriptors
from processes import processes_with, wait_for_threads

import usernsctl as un
from usernsctl.commands import async_start
from usernsctl.commands.async_start import _fill

PATIENCE = 20
FOREVER = ["sleep", "1000"]
# Minimum number of event loop iterations in which another task must run during an operation. If the
# operation blocked the event loop, the task would run at most once.
TURNS = 20


@pytest.fixture(autouse=True)
def check_no_descriptor_leaked(runtime: Path) -> Iterator[None]:
    before = open_descriptors()
    yield
    gc.collect()
    assert open_descriptors() == before


class Others:
    """Asyncio task that counts the event loop iterations in which it runs.

    :ivar turns: the count.
    :ivar wanted: the count for which functions wrapped by `before` wait.
    """

    def __init__(self) -> None:
        self.turns = self.wanted = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)

    def before(self, do: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that waits until `turns` has reached `wanted`, and then calls `do`.

        usernsctl calls the returned function in a thread. Without the wait, `do` could return
        before the event loop runs this task.
        """

        def do_later(*arguments: Any) -> Any:
            deadline = time.monotonic() + PATIENCE / 2
            while self.turns < self.wanted and time.monotonic() < deadline:
                time.sleep(0.001)
            return do(*arguments)

        return do_later

    @contextlib.contextmanager
    def expect_turns(self) -> Iterator[None]:
        """Check that this task runs at least TURNS times during the ``with`` block."""
        self.wanted = self.turns + TURNS
        yield
        assert self.turns >= self.wanted


@contextlib.asynccontextmanager
async def others() -> AsyncIterator[Others]:
    made = Others()
    task = asyncio.create_task(made.run())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(async_start, "_fill", made.before(_fill))
        try:
            yield made
        finally:
            task.cancel()


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_async_with_sandbox_host_does_not_block() -> None:
    async def main() -> None:
        async with others() as other:
            with other.expect_turns():
                host = await un.SandboxHost.create_async()
            with other.expect_turns():
                script = ["sh", "-c", "read x; exit 4"]
                box = await host.start_async(script, stdin=un.PIPE)
            with other.expect_turns():
                ending = threading.Thread(target=other.before(box.stdin.close))
                ending.start()
                assert await box.wait_async() == 4
            ending.join()
            await box.close_async()
            await host.close_async()

    run(main)


def test_async_with_does_not_block() -> None:
    async def main() -> None:
        async with others() as other, await un.SandboxHost.create_async() as host:
            with other.expect_turns():
                async with await un.Sandbox.create_async(FOREVER, host=host) as box:
                    box.kill()
                    assert await box.wait_async() == -9
            with other.expect_turns():
                async with await un.Sandbox.create_async(["sleep", "0.5"]) as box:
                    assert await box.wait_async() == 0

    run(main)


@pytest.mark.parametrize("detach", [False, True])
def test_close_async_does_not_block(detach: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with others() as other, await un.SandboxHost.create_async() as host:
            box = await host.start_async(FOREVER, detach=detach)
            monkeypatch.setattr(un.Sandbox, "close", other.before(un.Sandbox.close))
            with other.expect_turns():
                await box.close_async()
            assert box.returncode == -9

    run(main)


def test_create_async_does_not_block() -> None:
    async def main() -> None:
        async with others() as other:
            with other.expect_turns():
                host = await un.SandboxHost.create_async(network="none")
            host.close()

    run(main)


def test_sandbox_created_in_a_loop_works_without_async_with() -> None:
    async def main() -> None:
        with un.SandboxHost() as host, un.Sandbox(["sh", "-c", "exit 3"], host=host) as box:
            assert box.wait() == 3
        box = un.Sandbox(["sh", "-c", "exit 5"])
        assert await box.wait_async() == 5
        box.close()
        un.Sandbox(FOREVER).close()
        un.SandboxHost().close()

    run(main)


def test_invalid_arguments_raise_in_a_loop() -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="hostname"):
            un.SandboxHost(hostname=5)  # type: ignore[arg-type]
        with pytest.raises(FileNotFoundError, match="does not exist"):
            un.SandboxHost(rootfs="/no/such")
        with pytest.raises(FileNotFoundError, match="does not exist"):
            await un.SandboxHost.create_async(rootfs="/no/such")
        with pytest.raises(TypeError, match="unexpected keyword argument 'hostnam'"):
            await un.SandboxHost.create_async(hostnam="x")  # type: ignore[call-arg]
        async with un.SandboxHost() as host:
            with pytest.raises(un.CommandError, match="the directory does not exist"):
                await un.Sandbox.create_async(["true"], host=host, cwd="/nope")
            with pytest.raises(un.CommandError, match="the directory does not exist"):
                await host.start_async(["true"], cwd="/nope")

    run(main)


@pytest.fixture
def creation_allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Block threads that initialize sandboxes and hosts until the yielded event is set."""
    may_go_on = threading.Event()
    fill = _fill

    def wait_and_fill(*arguments: Any) -> None:
        assert may_go_on.wait(PATIENCE)
        fill(*arguments)

    monkeypatch.setattr(async_start, "_fill", wait_and_fill)
    yield may_go_on
    may_go_on.set()


@pytest.mark.parametrize("what", ["a sandbox", "a sandbox with a host of its own", "a host"])
def test_cancelled_creation_leaks_nothing(what: str, creation_allowed: threading.Event) -> None:
    # The test searches command lines for the id, so the id must be unique.
    id = f"cancelled-{os.getpid()}"

    async def main() -> None:
        creation_allowed.set()
        with await un.SandboxHost.create_async() as host:
            creation_allowed.clear()
            make: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
                "a sandbox": lambda: un.Sandbox.create_async(FOREVER, host=host, id=id),
                "a sandbox with a host of its own": lambda: un.Sandbox.create_async(FOREVER, id=id),
                "a host": un.SandboxHost.create_async,
            }
            task = asyncio.create_task(make[what]())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            creation_allowed.set()
            # Wait for two threads: one finishes the creation, and another closes the created
            # object.
            await asyncio.get_running_loop().shutdown_default_executor()
            wait_for_threads()

    run(main)
    assert processes_with(id) == []


def test_cancelled_creation_issues_no_warning(
    recwarn: pytest.WarningsRecorder, creation_allowed: threading.Event
) -> None:
    async def main() -> None:
        entering = asyncio.create_task(un.SandboxHost.create_async())
        await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering
        creation_allowed.set()
        await asyncio.get_running_loop().shutdown_default_executor()
        wait_for_threads()

    run(main)
    gc.collect()
    assert not list(recwarn)
