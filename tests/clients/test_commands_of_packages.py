"""Tests of packages that start commands, with each command run in gVisor by `usernsctl run`."""

from __future__ import annotations

import time

import anyio
import gvisor
import pytest
import sh
import trio
from conftest import EXIT_SECONDS, SCRIPTS, children
from plumbum import ProcessExecutionError, local

import usernsctl as un

USERNSCTL = str(SCRIPTS / "usernsctl")
RUN = [USERNSCTL, "run", "--"]


def assert_no_sandbox_left() -> None:
    """Check that all sandbox processes exit within EXIT_SECONDS."""
    deadline = time.monotonic() + EXIT_SECONDS
    while left := [name for name in children().values() if "zombie" not in name]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_plumbum_runs_commands_in_gvisor() -> None:
    in_gvisor = local[USERNSCTL]["run", "--"]
    assert gvisor.is_release(in_gvisor["uname", "-r"]().strip())
    pipe = in_gvisor["echo", "text"] | in_gvisor["tr", "a-z", "A-Z"]
    assert pipe() == "TEXT\n"
    with pytest.raises(ProcessExecutionError) as caught:
        in_gvisor["sh", "-c", "exit 3"]()
    assert caught.value.retcode == 3


def test_sh_runs_commands_in_gvisor() -> None:
    in_gvisor = sh.Command(USERNSCTL).bake("run", "--")
    assert gvisor.is_release(str(in_gvisor("uname", "-r")).strip())
    assert str(in_gvisor("cat", _in="text")) == "text"
    with pytest.raises(sh.ErrorReturnCode_3):
        in_gvisor("sh", "-c", "exit 3")
    with pytest.raises(sh.TimeoutException):
        in_gvisor("sleep", "100", _timeout=5)
    assert_no_sandbox_left()


def test_trio_runs_and_cancels_commands_in_gvisor() -> None:
    async def main() -> None:
        done = await trio.run_process([*RUN, "uname", "-r"], capture_stdout=True)
        assert gvisor.is_release(done.stdout.decode().strip())
        with trio.move_on_after(5) as scope:
            await trio.run_process([*RUN, "sleep", "100"])
        assert scope.cancelled_caught

    trio.run(main)
    assert_no_sandbox_left()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio_runs_and_cancels_commands_in_gvisor(backend: str) -> None:
    async def main() -> None:
        done = await anyio.run_process([*RUN, "uname", "-r"])
        assert gvisor.is_release(done.stdout.decode().strip())
        with anyio.move_on_after(5) as scope:
            await anyio.run_process([*RUN, "sleep", "100"])
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    assert_no_sandbox_left()


def test_anyio_timeout_kills_all_processes_of_a_command() -> None:
    async def main() -> None:
        async with await un.Sandbox.create_async(None) as box:
            with anyio.move_on_after(1):
                await box.run_async(["sh", "-c", "sleep 1000 & sleep 1000"])
            left = await box.run_async(["pgrep", "sleep"], capture_output=True)
            assert left.stdout == b""

    anyio.run(main)
