"""A handler of signals that waits for, kills or closes what it has interrupted a wait for."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import settled_descriptors
from inside import PATIENCE
from interrupts import run_interrupted

import usernsctl as un
from usernsctl import _core
from usernsctl.commands import popen
from usernsctl.namespaces.namespace import Namespace

FOREVER = ["sleep", "1000"]


@contextmanager
def handled(do: Any, seconds: float) -> Iterator[list[Any]]:
    """Has SIGALRM call `do`, and come once after some time, or not by itself (0).

    Yields what it has returned.
    """
    results: list[Any] = []

    def handle(number: int, frame: FrameType | None) -> None:
        results.append(do())

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield results
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


@contextmanager
def interrupting(function: Any) -> Iterator[None]:
    """Has a handler of signals raise in `function`, as soon as a call that it makes is over."""

    def handle(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is function.__code__:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end(process: un.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_kill_in_signal_handler_ends_what_is_waited_for(timeout: float | None) -> None:
    with un.Popen(FOREVER) as process, handled(lambda: end(process), 0.05) as results:
        assert process.wait(timeout) == -signal.SIGKILL
    assert results == [-signal.SIGKILL]
    assert process.pidfd == -1


def test_wait_in_signal_handler_at_any_moment_of_many_polls() -> None:
    for pause in range(1, 100):
        with un.Popen(["true"]) as process:
            with handled(process.wait, pause * 2e-5) as results:
                while process.poll() is None:
                    pass
                while not results:
                    pass
            assert (process.returncode, results) == (0, [0])


def test_many_threads_wait_for_one() -> None:
    with un.Popen(["sh", "-c", "read x; exit 7"], stdin=un.PIPE) as process:
        begin = threading.Barrier(9)

        def wait(number: int) -> int | None:
            begin.wait()
            return process.wait(PATIENCE) if number % 2 else process.wait()

        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(wait, number) for number in range(8)]
            begin.wait()
            assert process.poll() is None
            process.stdin.close()
            assert [one.result(PATIENCE) for one in waiting] == [7] * 8
        # subprocess's own has a lock that is of no use here.
        assert subprocess.Popen.poll(process) == 7


def run_until_closed(namespace: Namespace) -> None:
    while True:
        assert namespace.run(["true"]).returncode == 0


def test_close_in_signal_handler_while_commands_are_started_in_the_namespace() -> None:
    closed = 0
    for pause in range(1, 40):
        namespace = Namespace.create()
        with handled(namespace.close, pause * 5e-5), pytest.raises(ValueError, match="closed"):
            run_until_closed(namespace)
        assert namespace.closed
        closed += 1
    assert closed == 39


@pytest.mark.parametrize("call", ["run", "check_output", "popen"])
def test_close_in_signal_handler_while_the_thread_waits_for_a_command(call: str) -> None:
    """The command goes on: it is in the namespace, which nobody holds any more."""
    namespace = Namespace.create(uts=True)
    script = ["sh", "-c", "sleep 0.05; kill -ALRM $PPID; sleep 0.2"]
    with handled(namespace.close, 0) as results:
        start = getattr(namespace, call)(script)
        if call == "popen":
            with start:
                assert start.wait(PATIENCE) == 0
    assert (results, namespace.closed) == ([None], True)
    with pytest.raises(ValueError, match="closed"):
        namespace.spawn(["true"])


def test_close_in_signal_handler_at_the_end_of_its_own_block() -> None:
    for pause in range(1, 60):
        with Namespace.create() as namespace, handled(namespace.close, pause * 2e-5) as results:
            namespace.close()
            while not results:
                pass
        assert namespace.closed


def test_exit_in_signal_handler_while_the_thread_waits_for_the_command() -> None:
    process = un.Popen(FOREVER, stdin=un.PIPE, stdout=un.PIPE)

    def leave() -> None:
        process.kill()
        process.__exit__(None, None, None)

    with handled(leave, 0.05) as results:
        assert process.wait() == -signal.SIGKILL
    assert results == [None]
    assert process.stdout is not None
    assert process.stdout.closed


def children() -> set[str]:
    """Those of this thread; what a test before has left may still be among them."""
    return set(Path("/proc/thread-self/children").read_text().split())


@pytest.mark.parametrize(
    "function", [_core.spawn, popen._start, un.Popen._execute_child, un.Popen._hold]
)
@pytest.mark.parametrize("namespaces", [{}, {"mount": True, "pid": True}], ids=["few", "more"])
def test_nothing_is_left_of_a_start_that_a_signal_handler_interrupts(
    namespaces: dict[str, bool], function: Any
) -> None:
    interrupted = 0
    before = settled_descriptors()
    others = children()
    for _ in range(20):
        try:
            with interrupting(function):
                process = un.Popen(FOREVER, **namespaces)
        except Interrupted:
            interrupted += 1
        else:
            end(process)
    # Others are over too soon to be met for certain.
    assert interrupted or function is not _core.spawn
    assert children() <= others
    assert settled_descriptors() == before


def test_nothing_is_left_of_namespaces_whose_making_a_signal_handler_interrupts() -> None:
    interrupted = 0
    before = settled_descriptors()
    for _ in range(20):
        try:
            with interrupting(_core.create_namespaces):
                made = Namespace.create(mount=True)
        except Interrupted:
            interrupted += 1
        else:
            made.close()
    assert interrupted
    assert settled_descriptors() == before


# What the interrupt has others forget is closed with a warning, which is an error here.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["create", "from_pid", "from_fd"])
def test_no_descriptor_of_a_namespace_is_lost_wherever_its_making_is_interrupted(way: str) -> None:
    with Namespace.create() as there, there.popen(FOREVER, mount=True) as process:

        def make() -> None:
            if way == "create":
                Namespace.create(mount=True).close()
            elif way == "from_pid":
                Namespace.from_pid(process.pid).close()
            else:
                Namespace.from_fd(there.fileno()).close()

        try:
            make()
            before = settled_descriptors()
            for number in itertools.count(1):
                was_interrupted = run_interrupted(make, number)
                assert settled_descriptors() == before, f"at place {number}"
                if not was_interrupted:
                    break
        finally:
            process.kill()
    assert number > 30
