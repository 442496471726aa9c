"""Tests of standard streams, which must stay blocking for the command and for the caller.

gVisor sets O_NONBLOCK on the descriptors that it inherits. The flag belongs to the open file
description, which the caller, or another descriptor of the command, may share.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Program
from sampling import tries

import usernsctl as un

# Program that prints which of its standard descriptors have O_NONBLOCK set.
LOOK = (
    "import fcntl, os; "
    "print([fd for fd in (0, 1, 2) if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK])"
)
PYTHON = ["/usr/bin/python3", "-c"]
# Numbers of starts. Several are needed, because gVisor examines its descriptors in varying order.
several = tries(4, 8)
# Size of output in bytes, which exceeds the capacity of a pipe, 65,536 bytes (pipe(7)).
OUTPUT_BYTES = 200_000


@pytest.fixture
def host() -> Iterator[un.SandboxHost]:
    with un.SandboxHost() as made:
        yield made


def is_blocking(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


@several
def test_run_keeps_a_shared_output_pipe_blocking(usernsctl: Program, count: int) -> None:
    command = [usernsctl.path, "run", "--", *PYTHON, LOOK]
    for _ in range(count):
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode, done.stdout) == (0, "[]\n")


def test_run_keeps_the_pipes_of_the_caller_blocking(usernsctl: Program) -> None:
    ours, theirs = os.pipe()
    try:
        subprocess.run([usernsctl.path, "run", "--", "true"], check=True, stdin=ours, stdout=theirs)
        assert is_blocking(ours)
        assert is_blocking(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_run_keeps_the_terminal_of_the_caller_blocking(usernsctl: Program) -> None:
    ours, theirs = os.openpty()
    try:
        # Make only two standard streams terminals: with three, `run` would give the command a new
        # terminal.
        subprocess.run(
            [usernsctl.path, "run", "--", "cat"],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
        assert is_blocking(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_run_reads_a_fifo_with_a_late_writer(usernsctl: Program, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with subprocess.Popen(
        [usernsctl.path, "run", "--", "cat"], stdin=reader, stdout=subprocess.PIPE, text=True
    ) as process:
        (tmp_path / "pipe").write_text("late\n")
        os.close(reader)
        assert process.communicate() == ("late\n", None)


def look_by_start(host: un.SandboxHost) -> bytes:
    with host.start([*PYTHON, LOOK], stdin=un.DEVNULL, stdout=un.PIPE, stderr=un.STDOUT) as box:
        return box.communicate()[0]


def look_by_detach(host: un.SandboxHost) -> bytes:
    with host.start(
        [*PYTHON, LOOK], stdin=un.DEVNULL, stdout=un.PIPE, stderr=un.STDOUT, detach=True
    ) as box:
        return box.communicate()[0]


def look_by_run(host: un.SandboxHost) -> bytes:
    with host.start(["sleep", "1000"], stdin=un.DEVNULL, stdout=un.DEVNULL) as box:
        return box.run([*PYTHON, LOOK], stdin=un.DEVNULL, stdout=un.PIPE, stderr=un.STDOUT).stdout


@pytest.mark.sampled(1)
@pytest.mark.parametrize("call", [look_by_start, look_by_detach, look_by_run])
@several
def test_sandboxes_keep_a_shared_output_pipe_blocking(
    host: un.SandboxHost, call: Callable[[un.SandboxHost], bytes], count: int
) -> None:
    assert [call(host) for _ in range(count)] == [b"[]\n"] * count


@several
def test_output_read_late_is_complete(host: un.SandboxHost, count: int) -> None:
    code = f"import time; print('x' * {OUTPUT_BYTES}, flush=True); time.sleep(0.1)"
    for _ in range(count):
        with host.start([*PYTHON, code], stdin=un.DEVNULL, stdout=un.PIPE, stderr=un.STDOUT) as box:
            assert box.communicate()[0] == b"x" * OUTPUT_BYTES + b"\n"
            assert box.wait() == 0


UNUSABLE = {
    "eventfd": lambda: os.eventfd(0),
    "pidfd": lambda: os.pidfd_open(os.getpid()),
    "directory": lambda: os.open("/", os.O_RDONLY),
    "namespace": lambda: os.open("/proc/self/ns/user", os.O_RDONLY),
    "path": lambda: os.open("/etc/passwd", os.O_PATH),
}


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.sampled
def test_unsupported_descriptors_as_streams_raise(
    host: un.SandboxHost, kind: str, name: str
) -> None:
    with contextlib.ExitStack() as undo:
        fd = UNUSABLE[kind]()
        undo.callback(os.close, fd)
        box = undo.enter_context(host.start(None))
        for start in (
            lambda: box.run(["true"], **{name: fd}),
            lambda: host.start(["true"], **{name: fd}),
        ):
            begin = time.monotonic()
            with pytest.raises(un.CommandError, match=f"{name}: gVisor can't pass") as caught:
                start()
            assert caught.value.step == "stdio"
            assert time.monotonic() - begin < 20
        assert box.run(["true"]).returncode == 0
