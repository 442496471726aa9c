"""Tests of sandboxes under Trio: ``with`` works, but ``async with`` fails without asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import trio

import usernsctl as un

pytestmark = pytest.mark.usefixtures("runtime")

FOREVER = ["sleep", "1000"]

MAKERS: dict[str, Callable[[un.SandboxHost], Any]] = {
    "host": lambda host: un.SandboxHost(),
    "sandbox": lambda host: un.Sandbox(FOREVER, host=host),
    "detached": lambda host: un.Sandbox(FOREVER, host=host, detach=True, stdout=un.DEVNULL),
    "template": lambda host: host.template(),
    "pool": lambda host: host.pool(1),
}


async def enter(make: Callable[[un.SandboxHost], Any], host: un.SandboxHost) -> None:
    async with make(host):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("name", MAKERS)
def test_async_with_under_trio_raises_and_leaks_nothing(host: un.SandboxHost, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"asyncio.*Trio"):
        trio.run(enter, MAKERS[name], host)
    assert un.Sandbox.list_detached() == []


def test_async_with_under_trio_in_asyncio_raises(host: un.SandboxHost) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            enter,
            lambda _: un.Sandbox(FOREVER, host=host),
            host,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        return (await done).unwrap()

    with pytest.raises(RuntimeError, match=r"asyncio.*Trio"):
        asyncio.run(main())


def test_with_works_in_a_thread_of_trio(host: un.SandboxHost) -> None:
    def run() -> bytes:
        with host.start(FOREVER) as box:
            return bytes(box.check_output(["echo", "inside"]))

    assert trio.run(trio.to_thread.run_sync, run) == b"inside\n"
