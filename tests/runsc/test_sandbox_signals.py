"""A handler of signals that closes a sandbox, or its host, whatever it has interrupted."""

from __future__ import annotations

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

import usernsctl as un
from usernsctl.gvisor.agent import commands

PATIENCE = 20
# At so many steps of a close it is closed once more.
STEPS = 40
FOREVER = ["sleep", "1000"]
both_kinds = pytest.mark.parametrize("detach", [False, True], ids=["held", "detached"])


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    yield
    assert un.Sandbox.list_detached() == []


@contextmanager
def handled(do: Callable[[], object], seconds: float) -> Iterator[list[int]]:
    """Has SIGALRM call `do`, and come once after some time, or not by itself (0).

    The yielded list is empty until it has.
    """
    calls: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        do()
        calls.append(number)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield calls
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def handled_after(do: Callable[[], object], file: Path) -> Iterator[list[int]]:
    """The same as soon as there is a file, which a command makes when it has come so far."""

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
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that sandboxes are shown as /told."""
    return tmp_path_factory.mktemp("told")


@both_kinds
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_it_closes_what_is_waited_for(detach: bool, timeout: float | None) -> None:
    with un.SandboxHost() as host:
        box = host.start(FOREVER, detach=detach)
        with handled(box.close, 0.3) as calls:
            assert box.wait(timeout) == 128 + signal.SIGKILL
        assert calls
        box.close()


@both_kinds
def test_it_closes_what_is_read(detach: bool) -> None:
    with un.Sandbox(FOREVER, stdout=un.PIPE, detach=detach) as box:
        with handled(box.close, 0.3) as calls:
            assert box.stdout.read() == b""
        assert calls
    assert box.stdout.closed


@both_kinds
def test_it_closes_what_another_command_runs_in(
    detach: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = commands.finish

    def ring(*arguments: Any, **options: Any) -> Any:
        # The command has started by now.
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        return finish(*arguments, **options)

    monkeypatch.setattr(commands, "finish", ring)
    with un.SandboxHost() as host:
        box = host.start(FOREVER, detach=detach)
        with handled(box.close, 0) as calls:
            assert box.run(FOREVER, stderr=un.DEVNULL).returncode != 0
        assert calls


def start_until_closed(host: un.SandboxHost, detach: bool) -> None:
    while True:
        host.start(["true"], detach=detach).close()


@both_kinds
def test_it_closes_the_host_while_sandboxes_are_started(detach: bool) -> None:
    """Each start works, or says that the host is closed, whatever was interrupted."""
    ends = set()
    for pause in range(5):
        host = un.SandboxHost()
        with handled(host.close, 0.002 + pause * 0.037) as calls:
            with pytest.raises(ValueError, match="is closed"):
                start_until_closed(host, detach)
            ends.add(bool(calls))
    assert ends == {True}


@both_kinds
def test_it_closes_while_it_is_closed(detach: bool) -> None:
    with un.SandboxHost() as host:
        for pause in range(1, 6):
            box = host.start(FOREVER, detach=detach)
            with handled(box.close, pause * 2e-3) as calls:
                box.close()
                while not calls:
                    pass
            assert box.returncode == 128 + signal.SIGKILL


def close_twice(box: un.Sandbox, step: int) -> int:
    """Close a sandbox, and once more, as a handler of signals would, before the line that is
    executed as the `step`-th of that.

    :returns: how many lines there were.
    """
    lines = 0

    def trace(frame: FrameType, event: str, value: object) -> Any:
        nonlocal lines
        lines += event == "line"
        if event == "line" and lines == step:
            box.close()
        return trace

    sys.settrace(trace)
    try:
        box.close()
    finally:
        sys.settrace(None)
    return lines


@both_kinds
def test_it_closes_at_any_step_of_a_close(detach: bool) -> None:
    with un.SandboxHost() as host:
        before = sorted(os.listdir(host.directory))
        count = close_twice(host.start(FOREVER, detach=detach), 0)
        first = random.randrange(1, 1 + count // STEPS)
        print(f"from step {first} of {count}")
        for step in range(first, count, count // STEPS):
            box = host.start(FOREVER, detach=detach)
            assert close_twice(box, step) >= step or step > count // 2
            assert box.returncode == 128 + signal.SIGKILL, step
            assert sorted(os.listdir(host.directory)) == before, step
            assert un.Sandbox.list_detached() == [], step


@both_kinds
def test_many_threads_close_it_while_many_wait(detach: bool) -> None:
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
    assert sorted(results, key=str) == [128 + signal.SIGKILL] * 4 + [None] * 4


@both_kinds
def test_close_in_signal_handler_while_it_communicates(detach: bool, told: Path) -> None:
    """What is read sees the end of its pipes, and no other file under their numbers."""
    pipes: dict[str, Any] = {"stdin": un.PIPE, "stdout": un.PIPE, "stderr": un.PIPE}
    script = ["sh", "-c", "read x; echo early; touch /told/it; sleep 1000"]
    with un.SandboxHost(binds=[f"{told}:/told:rw"]) as host:
        box = host.start(script, **pipes, detach=detach)
        with handled_after(box.close, told / "it") as calls:
            assert box.communicate(b"x\n") == (b"early\n", b"")
        assert calls
        assert box.returncode == 128 + signal.SIGKILL
        assert box.stdout.closed
        assert box.stdin.closed


@both_kinds
def test_close_in_another_thread_while_it_communicates(detach: bool) -> None:
    with un.SandboxHost() as host:
        box = host.start(FOREVER, stdout=un.PIPE, detach=detach)
        timer = threading.Timer(0.3, box.close)
        timer.start()
        assert box.communicate() == (b"", None)
        timer.join()
        assert box.stdout.closed


def test_close_of_the_host_in_signal_handler_while_a_sandbox_is_waited_for() -> None:
    host = un.SandboxHost()
    with host.start(["sh", "-c", "read x; exit 4"], stdin=un.PIPE) as box:

        def close() -> None:
            host.close()
            box.stdin.close()

        with handled(close, 0.2) as calls:
            assert box.wait(PATIENCE) == 4
        assert calls
    with pytest.raises(ValueError, match="is closed"):
        host.start(["true"])


def test_close_in_signal_handler_while_gvisor_run_runs(told: Path) -> None:
    """The host may go at any time: what runs keeps what it needs of it."""
    host = un.SandboxHost(binds=[f"{told}:/told:rw"])
    script = ["sh", "-c", "touch /told/it; read x; exit 4"]
    shut, held = os.pipe()

    def close() -> None:
        host.close()
        os.close(held)

    with handled_after(close, told / "it") as calls:
        done = un.gvisor.run(script, host=host, stdin=shut, capture_output=True)
    os.close(shut)
    assert (done.returncode, calls) == (4, [signal.SIGALRM])
