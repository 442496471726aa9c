"""Tests of starting commands beside threads, forks and signals: nothing may deadlock or leak."""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest
from conftest import children, mounts, open_descriptors
from processes import capture, check_output
from sampling import tries

import usernsctl as un

THREADS = 16
SECONDS = 60


@pytest.fixture
def namespace() -> Iterator[un.Namespace]:
    with un.Namespace.create() as made:
        yield made


def start_many(namespace: un.Namespace, count: int) -> None:
    """Run `count` commands in several threads, with each of three functions in turn."""

    def once(number: int) -> None:
        if number % 3 == 0:
            child = namespace.spawn(["true"])
            select.select([child.pidfd], [], [])
            os.close(child.pidfd)
            assert os.waitpid(child.pid, 0)[1] == 0
        elif number % 3 == 1:
            assert namespace.check_output(["echo", str(number)]) == b"%d\n" % number
        else:
            assert un.run(["sh", "-c", "exit 3"]).returncode == 3

    with ThreadPoolExecutor(THREADS) as pool:
        for result in [pool.submit(once, number) for number in range(count)]:
            result.result(SECONDS)


# Ignore the DeprecationWarning that os.fork() in a multithreaded process emits since Python 3.12.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forks_in_another_thread_do_not_disturb_starts(namespace: un.Namespace) -> None:
    """Check that commands can be started while another thread forks, and in the forked children.

    At the fork, the thread that starts commands may hold a lock, of which the child has a copy.
    """
    done = threading.Event()
    statuses = []

    def fork_all_the_time() -> None:
        while not done.is_set():
            pid = os.fork()
            if pid == 0:
                # Check that the forked child can start commands, too.
                code = namespace.run(["sh", "-c", "exit 7"]).returncode
                os._exit(code)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    forker = threading.Thread(target=fork_all_the_time)
    forker.start()
    try:
        start_many(namespace, 120)
    finally:
        done.set()
        forker.join()
    assert statuses
    assert set(statuses) == {7}


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGCHLD, signal.SIGUSR1], ids=str)
def test_signals_do_not_disturb_starts(namespace: un.Namespace, number: int) -> None:
    """Check that signal handlers never run in a starting child, and that no start fails."""
    mine = os.getpid()
    pids = set()

    def handle(_number: int, _frame: FrameType | None) -> None:
        pids.add(os.getpid())

    before = signal.signal(number, handle)
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            os.kill(mine, number)
            done.wait(0.0002)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        # First start commands in the main thread, which the handlers interrupt, and then in other
        # threads.
        for _ in range(30):
            assert namespace.run(["true"]).returncode == 0
        start_many(namespace, 60)
    finally:
        done.set()
        sender.join()
        signal.signal(number, before)
    assert pids == {mine}


def test_a_blocked_signal_is_still_pending_after_a_start(namespace: un.Namespace) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        signal.raise_signal(signal.SIGUSR2)
        namespace.run(["true"])
        assert signal.sigpending() == {signal.SIGUSR2}
        assert signal.sigwait({signal.SIGUSR2}) == signal.SIGUSR2
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


# Program that starts commands in threads while its process group receives signals. A child can also
# receive a signal before its execve(2). The child shares the program's memory (CLONE_VM), so
# Python's handler must not run there and write to the wakeup descriptor.
GROUP = """
import os, select, signal, threading
import usernsctl as un

reading, writing = os.pipe()
os.set_blocking(writing, False)
signal.signal(signal.SIGWINCH, lambda *_: None)
signal.set_wakeup_fd(writing)
done = threading.Event()

def start():
    while not done.is_set():
        assert ns.run(["true"]).returncode == 0
        assert ns.run(["true"], pid=True).returncode == 0
        assert un.run(["true"], pid=True).returncode == 0

with un.Namespace.create() as ns:
    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    bytes_read = 0
    for _ in range(1000):
        os.killpg(0, signal.SIGWINCH)
        # If a signal were lost, select() would never return.
        select.select([reading], [], [])
        bytes_read += len(os.read(reading, 4096))
    done.set()
    for thread in threads:
        thread.join()
while select.select([reading], [], [], 0)[0]:
    bytes_read += len(os.read(reading, 4096))
assert bytes_read == 1000, bytes_read
"""


def test_each_signal_is_handled_once_in_the_parent() -> None:
    done = capture([sys.executable, "-c", GROUP], timeout=SECONDS, start_new_session=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LOADED = """
import os, signal, threading
import numpy
import usernsctl as un

# numpy starts its own threads for the product.
matrix = numpy.random.rand(300, 300)
assert numpy.isfinite(matrix @ matrix).all()
heap = numpy.ones(1 << 27)
assert heap.nbytes == 1 << 30
handled_by = set()

def handle(*_):
    handled_by.add(os.getpid())

def start():
    for number in range(10):
        assert ns.check_output(["echo", "hi"], pid=number % 2 == 0) == b"hi\\n"

def descriptors():
    return len(os.listdir("/proc/self/fd"))

with un.Namespace.create() as ns:
    start()
    before = descriptors()
    signal.signal(signal.SIGALRM, handle)
    signal.signal(signal.SIGCHLD, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    threads = [threading.Thread(target=start) for _ in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            os._exit(ns.run(["sh", "-c", "exit 7"]).returncode)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    for thread in threads:
        thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert descriptors() == before
assert handled_by == {os.getpid()}
try:
    raise AssertionError(f"a child is left: {os.waitpid(-1, os.WNOHANG)}")
except ChildProcessError:
    pass
"""


@pytest.mark.thorough
def test_a_large_process_with_threads_forks_and_signals_starts_commands() -> None:
    # Ignore the DeprecationWarning that os.fork() in a multithreaded process emits since Python
    # 3.12.
    options = ["-W", "ignore::DeprecationWarning"]
    assert check_output([sys.executable, *options, "-c", LOADED], timeout=SECONDS) == ""


# Program that validates a config.json in 16 threads at once, as threads that start sandboxes do.
AT_ONCE = """
import threading
from usernsctl.gvisor import oci

config = {"ociVersion": "1.0.0", "root": {"path": "/"}, "process": {"args": ["true"], "cwd": "/"}}
barrier = threading.Barrier(16)

def validate():
    barrier.wait()
    oci.validate(config)

threads = [threading.Thread(target=validate) for _ in range(16)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_may_read_the_first_config_concurrently() -> None:
    for _ in range(5):
        check_output([sys.executable, "-c", AT_ONCE], timeout=SECONDS)


# Skip with AddressSanitizer, which keeps memory after free(3): the test measures memory.
@pytest.mark.unsanitized
@tries(600, 1500)
def test_many_starts_leave_nothing(namespace: un.Namespace, count: int) -> None:
    start_many(namespace, 50)
    before = open_descriptors(), mounts(), children()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_many(namespace, count)
    assert (open_descriptors(), mounts(), children()) == before
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 8192, f"the process has grown by {grown} KiB"
