"""Tests of signal handlers that kill the awaited command, or that raise an exception."""

from __future__ import annotations

import itertools
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import settled_descriptors
from inside import PATIENCE
from interrupts import alarm, handled, run_handled, run_interrupted

import usernsctl as un
from usernsctl import _core
from usernsctl.commands import popen
from usernsctl.namespaces.namespace import Namespace

FOREVER = ["sleep", "1000"]


class Interrupted(BaseException):
    """Exception that signal handlers of the tests raise, like KeyboardInterrupt."""


@contextmanager
def interrupting(function: Any) -> Iterator[None]:
    """Raise Interrupted from a signal handler while `function` runs."""

    def handle(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is function.__code__:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Interrupted

    with alarm(handle, 0.0002, 0.0002):
        yield


def end(process: un.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_kill_in_a_signal_handler_ends_the_wait(timeout: float | None) -> None:
    with un.Popen(FOREVER) as process, handled(process.kill, 0.05) as results:
        assert process.wait(timeout) == -signal.SIGKILL
    assert results == [None]
    assert process.pidfd == -1


@pytest.mark.parametrize("kill", [un.Popen.kill, un.Popen.terminate])
@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_kill_in_a_signal_handler_works_at_any_point_of_a_wait(
    kill: Callable[[un.Popen[bytes]], None], timeout: float | None
) -> None:
    for place in itertools.count(1):
        process = un.Popen(["sleep", "0.01"])
        came = run_handled(
            lambda process=process: process.wait(timeout),
            lambda process=process: kill(process),
            place,
        )
        assert process.wait(PATIENCE) in (0, -signal.SIGKILL, -signal.SIGTERM)
        if not came:
            break
    assert place > 20


def test_many_threads_wait_for_one_process() -> None:
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
        # Check that the status is stored where poll() of the base class finds it.
        assert subprocess.Popen.poll(process) == 7


def children() -> set[str]:
    """Return the pids of this thread's children, which may include children of other tests."""
    return set(Path("/proc/thread-self/children").read_text().split())


@pytest.mark.parametrize(
    "function", [_core.spawn, popen._start, un.Popen._execute_child, un.Popen._hold]
)
@pytest.mark.parametrize("namespaces", [{}, {"mount": True, "pid": True}], ids=["few", "more"])
def test_an_interrupted_start_leaves_nothing(namespaces: dict[str, bool], function: Any) -> None:
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
    # Only _core.spawn runs so long that at least one of 20 attempts certainly interrupts it.
    assert interrupted or function is not _core.spawn
    assert children() <= others
    assert settled_descriptors() == before


def test_an_interrupted_creation_leaves_no_namespaces() -> None:
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


# Ignore the ResourceWarning of a Popen object that an interrupt has dropped. Otherwise the tests
# would fail, since they treat warnings as errors.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["create", "from_pid", "from_fd"])
@pytest.mark.sampled(2)
def test_interrupts_at_any_point_leak_no_descriptor_of_a_namespace(way: str) -> None:
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
