"""Tests of create_subprocess_exec() from asyncio and from usernsctl, in several event loops."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
import uvloop
from conftest import children, open_descriptors
from inside import PATIENCE, WAITER
from kept import LINK
from processes import wait_for_threads

import usernsctl as un

Run = Callable[[Coroutine[Any, Any, Any]], Any]
FOREVER = ["sleep", "1000"]


# Create a loop before tests count descriptors: libuv's first loop opens a pipe that stays open
# until the process exits.
uvloop.new_event_loop().close()


def runner(module: ModuleType) -> Run:
    """Return a function that runs a coroutine in a new event loop of `module`."""

    def run_in_time(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=module.new_event_loop) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE))

    return run_in_time


@pytest.fixture(params=[asyncio, uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return runner(request.param)


# uvloop's own create_subprocess_exec() is not tested: it leaks a pipe, and raises other exceptions
# than asyncio's.
@pytest.fixture(
    params=[(asyncio, asyncio), (asyncio, un), (uvloop, un)],
    ids=["asyncio-its-own", "asyncio-ours", "uvloop-ours"],
)
def pair(request: pytest.FixtureRequest) -> tuple[Run, Any]:
    """Return a function like asyncio.run(), and asyncio's or our create_subprocess_exec()."""
    loop, api = request.param
    return runner(loop), api.create_subprocess_exec


def test_streams_carry_input_and_output(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> None:
        process = await start(
            "sh", "-c", "cat; echo err >&2; exit 3", stdin=un.PIPE, stdout=un.PIPE, stderr=un.PIPE
        )
        # Send more data than the pipes and the stream buffers hold together.
        much = os.urandom(1 << 20)
        assert await process.communicate(much) == (much, b"err\n")
        assert process.returncode == 3
        assert await process.wait() == 3

    run(main())


def test_streams_pass_lines_back_and_forth(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> None:
        process = await start("sed", "-u", "s/a/b/", stdin=un.PIPE, stdout=un.PIPE)
        for line in (b"a\n", b"ca\n"):
            process.stdin.write(line)
            await process.stdin.drain()
            assert await process.stdout.readline() == line.replace(b"a", b"b")
        process.stdin.close()
        await process.stdin.wait_closed()
        assert await process.stdout.read() == b""
        assert await process.wait() == 0

    run(main())


def test_output_is_read_after_wait(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> list[bytes]:
        process = await start("sh", "-c", "echo out; echo err >&2", stdout=un.PIPE, stderr=un.PIPE)
        status = await process.wait()
        return [await process.stdout.read(), await process.stderr.read(), b"%d" % status]

    async def several() -> None:
        for told in await asyncio.gather(*(main() for _ in range(20))):
            assert told == [b"out\n", b"err\n", b"0"]

    run(several())


def test_signals_reach_the_command(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> None:
        process = await start(*WAITER, stdout=un.PIPE)
        assert (await process.stdout.readline()).startswith(b"ready")
        assert process.returncode is None
        process.send_signal(signal.SIGUSR1)
        assert await process.wait() == 100 + signal.SIGUSR1
        for end, number in (("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)):
            process = await start(*FOREVER)
            getattr(process, end)()
            assert await process.wait() == -number

    run(main())


@pytest.mark.parametrize("api", [asyncio, un], ids=["its-own", "ours"])
def test_a_closed_standard_input_is_no_error(api: Any) -> None:
    async def main() -> None:
        process = await api.create_subprocess_exec("true", stdin=un.PIPE)
        await process.wait()
        assert await process.communicate(b"x" * (1 << 20)) == (None, None)

    runner(asyncio)(main())


def test_streams_can_be_files_or_devnull(pair: tuple[Run, Any], tmp_path: Any) -> None:
    run, start = pair

    async def main() -> None:
        with (tmp_path / "out").open("wb") as out:
            process = await start(
                "sh", "-c", "cat; echo out; echo err >&2", stdin=un.DEVNULL, stdout=out,
                stderr=un.STDOUT,
            )  # fmt: skip
            assert process.stdin is process.stdout is process.stderr is None
            assert await process.wait() == 0
        assert (tmp_path / "out").read_bytes() == b"out\nerr\n"

    run(main())


def test_arguments_for_text_and_shell_raise(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> None:
        for argument in ({"text": True}, {"encoding": "utf-8"}, {"bufsize": 1}, {"errors": "x"}):
            with pytest.raises(ValueError, match=next(iter(argument))):
                await start("true", **argument)
        with pytest.raises((ValueError, TypeError), match="shell"):
            await start("true", shell=True)

    run(main())


def test_a_command_that_can_not_start_leaves_nothing(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> None:
        before = open_descriptors(), children()
        with pytest.raises(FileNotFoundError):
            await start("no-such-tool", stdin=un.PIPE, stdout=un.PIPE)
        assert (open_descriptors(), children()) == before

    run(main())


def test_create_subprocess_exec_enters_the_given_namespaces(run: Run) -> None:
    async def output(started: Coroutine[Any, Any, Any]) -> Any:
        out, _ = await (await started).communicate()
        return out

    async def main() -> None:
        with un.Namespace.create(un.IdMap.root(), uts=True) as ns:
            inside = ns.check_output(LINK)
            assert await output(ns.create_subprocess_exec(*LINK, stdout=un.PIPE)) == inside
        fresh = un.create_subprocess_exec(
            "sh", "-c", "id -u; echo $$", stdout=un.PIPE, idmap=un.IdMap.root(), pid=True
        )
        assert await output(fresh) == b"0\n1\n"

    run(main())


def test_create_subprocess_exec_adds_no_thread_and_no_signal_handler(run: Run) -> None:
    async def main() -> None:
        handler, threads = signal.getsignal(signal.SIGCHLD), threading.active_count()
        processes = [await un.create_subprocess_exec("cat", stdin=un.PIPE) for _ in range(10)]
        assert threading.active_count() == threads
        assert signal.getsignal(signal.SIGCHLD) is handler
        for process in processes:
            # Pass input, even if empty: in Python 3.11, communicate() otherwise does not close the
            # pipe.
            await process.communicate(b"")

    run(main())


def test_an_event_loop_runs_in_another_thread(run: Run) -> None:
    async def main() -> None:
        assert await (await un.create_subprocess_exec("sh", "-c", "exit 5")).wait() == 5

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: run(main()), range(4)))


def test_a_cancelled_block_kills_and_reaps_its_command(run: Run) -> None:
    async def main() -> None:
        process = await un.create_subprocess_exec(*FOREVER, stdout=un.PIPE)

        async def work() -> None:
            async with process:
                await process.communicate()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(work(), 0.1)
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)

    run(main())


def test_create_subprocess_exec_block_waits_at_its_end(run: Run) -> None:
    async def main() -> None:
        async with await un.create_subprocess_exec("cat", stdin=un.PIPE) as process:
            assert process.returncode is None
        assert process.returncode == 0

    run(main())


def test_create_subprocess_exec_block_closes_the_pipes_first(run: Run) -> None:
    async def main() -> None:
        # Each command exits when its pipe is closed: `yes` without a reader, and `cat` without a
        # writer.
        async with await un.create_subprocess_exec("yes", stdout=un.PIPE) as process:
            assert (await process.stdout.readline()) == b"y\n"
        assert process.returncode in (1, -signal.SIGPIPE)
        async with await un.create_subprocess_exec("sh", "-c", "yes >&2", stderr=un.PIPE) as other:
            pass
        assert other.returncode
        streams = {"stdin": un.PIPE, "stdout": un.PIPE}
        async with await un.create_subprocess_exec("cat", **streams) as process:
            process.stdin.write(b"x")
            assert await process.stdout.read(1) == b"x"
        assert process.returncode == 0

    run(main())


def test_create_subprocess_exec_block_writes_its_buffered_input(run: Run, tmp_path: Any) -> None:
    much = os.urandom(1 << 20)

    async def main() -> None:
        with (tmp_path / "out").open("wb") as out:
            streams = {"stdin": un.PIPE, "stdout": out}
            async with await un.create_subprocess_exec("cat", **streams) as process:
                process.stdin.write(much)
        assert process.returncode == 0

    run(main())
    assert (tmp_path / "out").read_bytes() == much


def test_create_subprocess_exec_block_never_blocks_the_loop(run: Run) -> None:
    """Check that leaving the block waits for the command without blocking the event loop."""

    async def main() -> None:
        theirs, ours = os.pipe()
        command = ["sh", "-c", "read x; exit 9"]
        async with await un.create_subprocess_exec(*command, stdin=theirs) as process:
            os.close(theirs)
            asyncio.get_running_loop().call_later(0.1, os.close, ours)
        assert process.returncode == 9

    run(main())


TRACED = """
import asyncio, ctypes, os, signal, sys
import usernsctl as un

# The kernel reports the exit of a child first to the tracer (ptrace(2)), and only then to wait(2).
async def main():
    process = await un.create_subprocess_exec("sleep", "1000", idmap="current")
    ready, told = os.pipe()
    shut, held = os.pipe()
    tracer = os.fork()
    if tracer == 0:
        os.close(held)
        libc = ctypes.CDLL(None, use_errno=True)
        seized = libc.ptrace(0x4206, process.pid, None, None)  # PTRACE_SEIZE
        os.write(told, b"+" if seized == 0 else b"-")
        os.read(shut, 1)
        os._exit(0)
    os.close(told)
    if os.read(ready, 1) != b"+":
        print("refused")
        os.kill(tracer, signal.SIGKILL)
    process.kill()
    turns = 0
    while process.returncode is None:
        turns += 1
        if turns == 20:
            os.close(held)
        await asyncio.sleep(0.02)
    os.waitpid(tracer, 0)
    print(turns, process.returncode)

asyncio.run(main())
"""


def test_create_subprocess_exec_waits_for_a_tracer_that_reaps_first() -> None:
    script = [sys.executable, "-W", "ignore", "-c", TRACED]
    output = subprocess.check_output(script, text=True, timeout=PATIENCE).splitlines()
    turns, status = map(int, output[-1].split())
    assert status == -signal.SIGKILL
    # Many iterations of the event loop show that the loop waited until the tracer had exited.
    # Without a tracer, the loop learns the exit status after one or two iterations.
    assert turns >= 20 or output[0] == "refused"


async def cancel(work: Callable[[], Coroutine[Any, Any, None]], turns: int) -> None:
    """Start three tasks; cancel all of them after `turns` iterations of the event loop."""
    tasks = [asyncio.create_task(work()) for _ in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    wait_for_threads()
    # Give the event loop some iterations to close the cancelled tasks' pipes.
    for _ in range(10):
        await asyncio.sleep(0)


def test_cancelled_tasks_leave_nothing(run: Run) -> None:
    """Cancel tasks while they start or await a command; check that they leave nothing behind."""

    async def work() -> None:
        streams = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}
        async with await un.create_subprocess_exec(*FOREVER, **streams) as process:
            await process.communicate()

    async def main() -> None:
        # Cancel tasks once before the descriptors are counted: the event loop opens some at its
        # first use, and keeps them open.
        await cancel(work, turns=12)
        before = open_descriptors(), children()
        for turns in range(12):
            await cancel(work, turns)
        assert (open_descriptors(), children()) == before

    run(main())


def test_waiting_may_be_cancelled_without_harm(pair: tuple[Run, Any]) -> None:
    run, start = pair

    async def main() -> None:
        process = await start("cat", stdin=un.PIPE)
        waiting = [asyncio.create_task(process.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        process.stdin.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [0, 0]

    run(main())


ABANDONED = """
import asyncio, gc, sys, warnings
import usernsctl as un
async def main():
    global process
    process = await un.create_subprocess_exec("sleep", "1000", stdout=un.PIPE)
    print(process.pid)
asyncio.run(main())
warnings.simplefilter("ignore", ResourceWarning)
del process
gc.collect()
"""


def test_an_abandoned_command_is_killed() -> None:
    script = [sys.executable, "-c", ABANDONED]
    pid = int(subprocess.check_output(script, text=True, timeout=PATIENCE))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_hundreds_of_commands_run_at_once(run: Run) -> None:
    async def main() -> None:
        before = open_descriptors(), children()
        with un.Namespace.create() as ns:

            async def one(number: int) -> int:
                process = await ns.create_subprocess_exec("sh", "-c", f"exit {number % 100}")
                return await process.wait()

            statuses = await asyncio.gather(*(one(number) for number in range(200)))
        assert statuses == [number % 100 for number in range(200)]
        assert (open_descriptors(), children()) == before

    run(main())
