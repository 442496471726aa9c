"""Functions that start processes, and functions that read values of processes from /proc."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def capture(
    command: Sequence[str | Path],
    *,
    input: str | None = None,
    timeout: float | None = 60,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a command; capture its output as text.

    :param input: text for standard input; /dev/null by default.
    :param options: additional arguments of subprocess.run().
    """
    if input is None:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(
        command, input=input, timeout=timeout, capture_output=True, text=True, **options
    )


def check_output(command: Sequence[str | Path], **options: Any) -> str:
    """Run a command; check that it succeeds and prints no errors; return its output."""
    done = capture(command, **options)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def kill_and_wait(pid: int, seconds: float = 30) -> None:
    """Kill a process, which need not be a child; wait until it has exited."""
    pidfd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    assert select.select([pidfd], [], [], seconds)[0], f"process {pid} has not exited"
    os.close(pidfd)


def wait_for_threads(seconds: float = 60) -> None:
    """Wait for the exit of usernsctl's threads, which close the objects of cancelled calls."""
    deadline = time.monotonic() + seconds
    # Such a thread may start another one, so enumerate them again.
    while found := [one for one in threading.enumerate() if one.name.startswith("usernsctl")]:
        assert time.monotonic() < deadline, found
        found[0].join(1)


def reset_peak_memory() -> int:
    """Reset this process's peak memory (:func:`peak_memory`); return the current memory in KiB.

    Without a reset, a test could not measure a peak below that of an earlier test.
    """
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process: any thread of runsc may start one."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in lists for word in file.read_text().split()]


def stop(pid: int, seconds: float) -> None:
    """Send SIGSTOP to a process; wait until all its threads have stopped.

    SIGSTOP may still be pending when kill(2) returns. Until the first thread handles it, all
    threads keep running, and may answer requests.
    """
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: set(thread_states(pid)) == {"T"}, seconds, lambda: f"{pid} is not stopped")


def thread_states(pid: int) -> Iterator[str]:
    """Yield the state of each thread of a process as a letter (proc_pid_stat(5))."""
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            yield path.read_text().rpartition(")")[2].split()[0]


def wait_until(
    condition: Callable[[], object],
    seconds: float = 60,
    explain: Callable[[], object] | None = None,
) -> None:
    """Wait until `condition` is true; after `seconds`, fail with the result of `explain`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, explain and explain()
        time.sleep(0.005)


def processes_with(word: str) -> list[str]:
    """Return the command lines that contain `word`, which must be unique to the test."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if word in line:
                found.append(line)
    return found


def causes_in(errors: str) -> list[str]:
    """Return the ids of the causes in usernsctl's messages."""
    return re.findall(r"\[([a-z-]+)\]$", errors, re.MULTILINE)


@contextlib.contextmanager
def umask(mask: int) -> Iterator[None]:
    """Set the umask of this process during a ``with`` block."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def wait_until_gone(word: str, seconds: float) -> list[str]:
    """Wait at most `seconds` until no command line contains `word`; return those that still do."""
    deadline = time.monotonic() + seconds
    while (found := processes_with(word)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def status_of(pid: int) -> dict[str, str]:
    """Return the fields of a process's /proc/PID/status by name (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
