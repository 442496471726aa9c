"""Tests of callers that ignore SIGCHLD, so that the kernel reaps their children by itself.

All starts must succeed, and commands must inherit the ignored SIGCHLD.
"""

from __future__ import annotations

import platform
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from callers import unprivileged
from conftest import Program
from inside import PATIENCE
from kept import in_python
from processes import check_output

# Root needs no helpers to map several ids, so only other users run these tests.
needs_helpers = [unprivileged, pytest.mark.userns_requires("subid")]

IGNORE = "env --ignore-signal=CHLD"
SHOW = ["sed", "-n", "s/^SigIgn:\t//p", "/proc/self/status"]
# The SigIgn mask in /proc/PID/status of a process that ignores only SIGCHLD.
SIGCHLD_ONLY = f"{1 << (signal.SIGCHLD - 1):016x}\n"

# True if the kernel reports the exit status of children that it has reaped by itself.
TELLS = tuple(map(int, platform.release().split(".")[:2])) >= (6, 15)


def with_helpers(test: Callable[..., None]) -> Callable[..., None]:
    """Return `test` with the marks of tests that need newuidmap and newgidmap."""
    for mark in needs_helpers:
        test = mark(test)
    return test


def ignoring(*command: str | Path) -> str:
    """Run a command that ignores SIGCHLD from the start; return its output."""
    return check_output([*IGNORE.split(), *command], timeout=PATIENCE)


@pytest.mark.parametrize(
    "options",
    [
        "-r",
        pytest.param("-r --map-auto", marks=needs_helpers),
        pytest.param("-rf --map-auto", marks=needs_helpers),
    ],
)
def test_the_prelude_starts_a_command(prelude: Program, options: str) -> None:
    assert ignoring(prelude.path, *options.split(), "--", *SHOW) == SIGCHLD_ONLY


@with_helpers
def test_exec_restores_sigpipe_and_sigxfsz(usernsctl: Program) -> None:
    """Check that the command does not inherit Python's ignored SIGPIPE and SIGXFSZ."""
    assert ignoring(usernsctl.path, "exec", "-r", "--map-auto", "--", *SHOW) == SIGCHLD_ONLY


@with_helpers
@pytest.mark.usefixtures("runtime")
def test_named_namespaces_work_with_sigchld_ignored(usernsctl: Program) -> None:
    ignoring(usernsctl.path, "ns", "create", "web", "-r", "--map-auto")
    try:
        assert ignoring(usernsctl.path, "ns", "exec", "web", "--", *SHOW) == SIGCHLD_ONLY
    finally:
        usernsctl("ns", "remove", "web")


THREADS = """
import signal, threading
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
over = threading.Event()

def start():
    while not over.is_set():
        os.posix_spawn("/bin/true", ["true"], {})
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN

def is_ignored():
    for line in open("/proc/self/status"):
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGCHLD - 1) & 1)

changes = []
def look():
    while not over.is_set():
        if not is_ignored():
            changes.append(1)

threads = [threading.Thread(target=one) for one in (start, look)]
for thread in threads:
    thread.start()
try:
    for _ in range(20):
        with un.Namespace.create("auto") as namespace:
            namespace.run(["true"])
finally:
    over.set()
    for thread in threads:
        thread.join()
assert not changes
try:
    print(os.waitpid(-1, 0))
except ChildProcessError:
    print("nobody is left")
"""


@with_helpers
def test_children_of_other_threads_leave_no_zombies() -> None:
    """Check that children of other threads, which the kernel reaps, don't remain as zombies."""
    assert in_python(THREADS) == "nobody is left\n"


RETURNCODES = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for script in ("exit 3", "kill -TERM $$", "exit 0"):
    print(un.run(["sh", "-c", script]).returncode, un.call(["sh", "-c", script], pid=True))
"""


def test_returncodes() -> None:
    """Check that the returncode is 0, as in subprocess, if the exit status is lost.

    Since Linux 6.15, the kernel reports the exit status of a child that it has reaped by itself.
    """
    told = "3 3\n-15 0\n0 0\n" if TELLS else "0 0\n0 0\n0 0\n"
    assert in_python(RETURNCODES) == told
