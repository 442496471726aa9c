"""Tests of signal handlers that kill a sandbox or its command during a call on the sandbox."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from interrupts import handled, run_handled
from sampling import tries

import usernsctl as un
from usernsctl.gvisor.agent import commands

pytestmark = pytest.mark.usefixtures("detached_state")

PATIENCE = 20
FOREVER = ["sleep", "1000"]
both_kinds = pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])


@contextmanager
def on_alarm_after_file(do: Callable[[], object], file: Path) -> Iterator[list[Any]]:
    """Call `do` in a handler of SIGALRM after a command in a sandbox has created `file`.

    Yield a list to which an item is added when the handler has run.
    """

    def ring() -> None:
        deadline = time.monotonic() + PATIENCE
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    with handled(do, 0) as calls:
        thread = threading.Thread(target=ring)
        thread.start()
        try:
            yield calls
        finally:
            thread.join()


@pytest.fixture
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a host directory that the tests mount at /told in their sandboxes."""
    return tmp_path_factory.mktemp("told")


@both_kinds
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_signal_handler_kills_during_wait(detach: bool, timeout: float | None) -> None:
    with un.SandboxHost() as host:
        box = host.start(FOREVER, detach=detach)
        with handled(box.kill, 0.3) as calls:
            assert box.wait(timeout) == -signal.SIGKILL
        assert calls
        box.close()


@both_kinds
def test_signal_handler_kills_during_a_read(detach: bool) -> None:
    with un.Sandbox(FOREVER, stdout=un.PIPE, detach=detach) as box:
        with handled(box.kill, 0.3) as calls:
            assert box.stdout.read() == b""
        assert calls
    assert box.stdout.closed


@both_kinds
def test_signal_handler_kills_during_run(detach: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    communicate = commands.communicate

    def ring(*arguments: Any, **options: Any) -> Any:
        # The command has started, so SIGALRM interrupts the wait for the command's exit.
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return communicate(*arguments, **options)

    monkeypatch.setattr(commands, "communicate", ring)
    with un.SandboxHost() as host:
        box = host.start(FOREVER, detach=detach)
        with handled(box.kill, 0) as calls:
            assert box.run(FOREVER, stderr=un.DEVNULL).returncode != 0
        assert calls
        box.close()


@both_kinds
def test_signal_handler_kills_during_close(detach: bool) -> None:
    with un.SandboxHost() as host:
        for pause in range(1, 6):
            box = host.start(FOREVER, detach=detach)
            with handled(box.kill, pause * 2e-3) as calls:
                box.close()
                while not calls:
                    pass
            assert box.returncode == -signal.SIGKILL


def close_and_kill(box: un.Sandbox, step: int) -> int:
    """Close `box`; kill it before the `step`-th executed line of close(), as a handler could.

    :returns: the number of executed lines of close().
    """
    lines = 0

    def trace(frame: FrameType, event: str, value: object) -> Any:
        nonlocal lines
        lines += event == "line"
        if event == "line" and lines == step:
            box.kill()
        return trace

    sys.settrace(trace)
    try:
        box.close()
    finally:
        sys.settrace(None)
    return lines


@pytest.mark.thorough
@both_kinds
@tries(8, 20)
def test_kill_before_any_line_of_close_works(detach: bool, count: int) -> None:
    with un.SandboxHost() as host:
        before = sorted(os.listdir(host.directory))
        # close() polls, so that the number of its executed lines differs from call to call.
        steps = min(close_and_kill(host.start(FOREVER, detach=detach), 0) for _ in range(3))
        first = random.randrange(1, 1 + steps // count)
        print(f"from step {first} of {steps}")
        reached = 0
        for step in range(first, steps, steps // count):
            box = host.start(FOREVER, detach=detach)
            reached += close_and_kill(box, step) >= step
            assert box.returncode == -signal.SIGKILL, step
            assert sorted(os.listdir(host.directory)) == before, step
            assert un.Sandbox.list_detached() == [], step
        assert reached >= count // 2


@both_kinds
def test_four_threads_close_while_four_wait(detach: bool) -> None:
    results: list[Any] = []
    begin = threading.Barrier(8)
    box = un.Sandbox(FOREVER, detach=detach)

    def use(number: int) -> None:
        begin.wait()
        results.append(box.close() if number % 2 else box.wait())

    threads = [threading.Thread(target=use, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(results, key=str) == [-signal.SIGKILL] * 4 + [None] * 4


@both_kinds
def test_signal_handler_kills_during_communicate(detach: bool, shared_dir: Path) -> None:
    """Kill the sandbox during communicate(), which must then return output and close the pipes."""
    pipes: dict[str, Any] = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}
    script = ["sh", "-c", "read x; echo early; touch /told/it; sleep 1000"]
    with un.SandboxHost(binds=[f"{shared_dir}:/told:rw"]) as host:
        box = host.start(script, **pipes, detach=detach)
        with on_alarm_after_file(box.kill, shared_dir / "it") as calls:
            assert box.communicate(b"x\n") == (b"early\n", b"")
        assert calls
        assert box.returncode == -signal.SIGKILL
        box.close()
        assert box.stdout.closed
        assert box.stdin.closed


@both_kinds
def test_close_in_another_thread_ends_communicate(detach: bool) -> None:
    with un.SandboxHost() as host:
        box = host.start(FOREVER, stdout=un.PIPE, detach=detach)
        timer = threading.Timer(0.3, box.close)
        timer.start()
        assert box.communicate() == (b"", None)
        timer.join()
        assert box.stdout.closed


@pytest.mark.parametrize("kill", [un.SandboxPopen.kill, un.SandboxPopen.terminate])
@pytest.mark.sampled(1)
def test_signal_handler_kills_a_command_at_any_step_of_wait(
    host: un.SandboxHost, kill: Callable[[un.SandboxPopen[bytes]], None]
) -> None:
    with host.start(FOREVER) as box:
        for place in itertools.count(1):
            process = box.popen(["sleep", "0.02"])
            came = run_handled(process.wait, lambda process=process: kill(process), place)
            assert process.wait(PATIENCE) in (0, -signal.SIGKILL, -signal.SIGTERM)
            if not came:
                break
    assert place > 20
