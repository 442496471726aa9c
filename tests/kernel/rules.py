"""Helper functions for the tests of kernel rules: system calls and child processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

Result = TypeVar("Result")

CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWUTS = 0x04000000

# The overflow id, which stands for unmapped ids (/proc/sys/kernel/overflowuid).
OVERFLOW_ID = 65534

LIBC = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """Call a function of libc that returns 0 for success, or -1 with errno set.

    :raises OSError: the function returned -1.
    """
    if getattr(LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare(flags: int) -> None:
    call("unshare", flags)


def setns(fd: int, kind: int) -> None:
    call("setns", fd, kind)


def set_hostname(name: bytes) -> None:
    call("sethostname", name, len(name))


@contextlib.contextmanager
def refused(number: int) -> Iterator[None]:
    """Check that the block raises an OSError with errno `number`."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        yield
    assert os.strerror(caught.value.errno or 0) == os.strerror(number)


def in_child(action: Callable[[], Result]) -> Result:
    """Call `action` in a forked child; return its result, or raise its exception."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outcome: tuple[Any, BaseException | None] = (action(), None)
        except BaseException as error:
            outcome = (None, error)
        with open(writer, "wb") as file:
            pickle.dump(outcome, file)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"the child ended with status {status}"
    result, failure = pickle.loads(data)
    if failure is not None:
        raise failure
    return result  # type: ignore[no-any-return]


@contextlib.contextmanager
def waiting_child(prepare: Callable[[], object]) -> Iterator[int]:
    """Fork a child that calls `prepare`, and exits after the block; yield its pid."""
    ready, over = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            prepare()
            os.close(over[1])
            os.write(ready[1], b"+")
            os.read(over[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        assert os.read(ready[0], 1) == b"+", "the child failed"
        yield pid
    finally:
        for end in (ready[0], *over):
            os.close(end)
        os.waitpid(pid, 0)


def write(path: str, text: str) -> None:
    """Write text to a file in one system call, as the kernel requires for uid_map and gid_map."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def map_self(inside: int = 0) -> None:
    """Enter a new user namespace whose maps contain only the caller's own ids."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inside} {uid} 1")
    write("/proc/self/gid_map", f"{inside} {gid} 1")


def effective(pid: int | str = "self") -> int:
    """Return a process's effective capabilities as a bit mask, in which bit N is capability N."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    raise AssertionError("no CapEff in /proc/PID/status")


def all_capabilities() -> int:
    return (1 << int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1) - 1


def link(name: str, pid: int | str = "self") -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")
