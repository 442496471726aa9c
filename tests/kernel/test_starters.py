"""Tests of usernsctl-init and usernsctl-detach with closed or replaced standard streams."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import unprivileged
from conftest import Program
from inside import PATIENCE
from processes import capture, wait_until

import usernsctl as un

PROGRAMS = Path(un.__file__).with_name("_bin")

# Command that writes the targets of its descriptors 0, 1 and 2 to a file, and starts a background
# process that later exits with status 7.
COMMAND = """#!/bin/sh
zero=$(readlink /proc/$$/fd/0) one=$(readlink /proc/$$/fd/1) two=$(readlink /proc/$$/fd/2)
echo "$zero $one $two" >"$0.seen"
sh -c 'read line <"$0.go"; exit 7' "$0" </dev/null >/dev/null 2>&1 &
echo $! >"$0.pid"
"""

# Program that moves given descriptors to 0, 1, ..., closes the other standard streams, and executes
# another program.
AT_THE_START = """
import os, sys
count = int(sys.argv[1])
fds = [int(word) for word in sys.argv[2 : 2 + count]]
for to in range(3):
    os.close(to)
for to, fd in enumerate(fds):
    os.dup2(fd, to, inheritable=True)
os.execv(sys.argv[2 + count], sys.argv[2 + count :])
"""


@pytest.fixture
def command(tmp_path: Path) -> Path:
    script = tmp_path / "command"
    script.write_text(COMMAND)
    script.chmod(0o755)
    os.mkfifo(f"{script}.go")
    return script


@pytest.fixture
def creator() -> Iterator[int]:
    pidfd = os.pidfd_open(os.getpid())
    yield pidfd
    os.close(pidfd)


def moved(at_the_start: bool, fds: list[int]) -> tuple[list[str], list[str]]:
    """Return a command prefix that closes 0, 1 and 2, and the numbers that `fds` then have.

    If `at_the_start` is set, the prefix also moves the descriptors to 0, 1, ...
    """
    if at_the_start:
        first = [sys.executable, "-c", AT_THE_START, str(len(fds)), *map(str, fds)]
        return first, [str(number) for number in range(len(fds))]
    return [sys.executable, "-c", AT_THE_START, "0"], [str(fd) for fd in fds]


@pytest.mark.parametrize("at_the_start", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
def test_init_needs_no_standard_streams(
    prelude: Program, command: Path, creator: int, at_the_start: bool, ignored: bool
) -> None:
    """Check that usernsctl-init works without standard streams, even if SIGCHLD is ignored."""
    ready, theirs = os.pipe()
    first, numbers = moved(at_the_start, [creator, theirs])
    keep = [f"--preserve-fd={fd}" for fd in (creator, theirs)]
    words = [*first, str(PROGRAMS / "usernsctl-init"), *numbers, "", f"{command}.pid", str(command)]
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            [prelude.path, "-rp", "--mount-proc", *keep, "--", *words], pass_fds=(creator, theirs)
        )
    finally:
        signal.signal(signal.SIGCHLD, before)
    with process, open(ready, "rb", buffering=0) as reader:
        try:
            os.close(theirs)
            assert reader.read(1) == b"+"
            Path(f"{command}.go").write_text("go\n")
            assert process.wait(PATIENCE) == 7
        finally:
            process.kill()
    # Check that the command's streams are /dev/null, not descriptors of usernsctl-init.
    assert Path(f"{command}.seen").read_text() == "/dev/null /dev/null /dev/null\n"


@pytest.mark.parametrize("at_the_start", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("answer", [b"+", b"-"])
def test_detach_needs_no_standard_streams(
    command: Path, tmp_path: Path, creator: int, at_the_start: bool, ignored: bool, answer: bytes
) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    ours, theirs = socket.socketpair()
    lock = os.open(directory, os.O_RDONLY)
    fds = [creator, theirs.fileno(), lock]
    first, numbers = moved(at_the_start, fds)
    words = [*first, str(PROGRAMS / "usernsctl-detach"), *numbers, "", str(directory)]
    words += [f"{command}.pid", str(command)]
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        process = subprocess.Popen(words, pass_fds=fds)
    finally:
        signal.signal(signal.SIGCHLD, before)
    with process, ours:
        try:
            theirs.close()
            ours.settimeout(PATIENCE)
            assert ours.recv(1) == b"+"
            ours.send(answer)
            assert process.wait(PATIENCE) == (0 if answer == b"+" else 137)
        finally:
            process.kill()
            os.close(lock)
    assert directory.exists() == (answer == b"+")
    if answer == b"+":
        Path(f"{command}.go").write_text("go\n")
    assert Path(f"{command}.seen").read_text() == "/dev/null /dev/null /dev/null\n"


@unprivileged
def test_detach_leaves_no_directory_if_it_can_make_no_control_group(
    command: Path, tmp_path: Path, creator: int
) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    ours, theirs = socket.socketpair()
    lock = os.open(directory, os.O_RDONLY)
    fds = [creator, theirs.fileno(), lock]
    words = [str(PROGRAMS / "usernsctl-detach"), *map(str, fds), "memory=1048576,groups=1"]
    words += [str(directory), f"{command}.pid", str(command)]
    with subprocess.Popen(words, pass_fds=fds) as process, ours:
        theirs.close()
        ours.settimeout(PATIENCE)
        told = ours.recv(4096)
        assert process.wait(PATIENCE) == 125
    os.close(lock)
    assert b"limit-unenforceable" in told
    assert not directory.exists()


def test_init_leaves_no_process_if_its_creator_has_closed_the_pipe(
    command: Path, creator: int
) -> None:
    """Check that usernsctl-init survives SIGPIPE, since it must still kill the started command."""
    ready, theirs = os.pipe()
    os.close(ready)
    words = [str(PROGRAMS / "usernsctl-init"), str(creator), str(theirs), ""]
    words += [f"{command}.pid", str(command)]
    with subprocess.Popen(words, pass_fds=(creator, theirs)) as process:
        os.close(theirs)
        status = process.wait(PATIENCE)
    started = int(Path(f"{command}.pid").read_text())
    try:
        assert status == 125
        assert not Path(f"/proc/{started}").exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(started, signal.SIGKILL)


def test_the_keeper_outlives_a_killed_parent(command: Path, tmp_path: Path, creator: int) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    ours, theirs = socket.socketpair()
    lock = os.open(directory, os.O_RDONLY)
    fds = [creator, theirs.fileno(), lock]
    words = [str(PROGRAMS / "usernsctl-detach"), *map(str, fds), "", str(directory)]
    words += [f"{command}.pid", str(command)]
    with subprocess.Popen(words, pass_fds=fds) as process, ours:
        theirs.close()
        os.close(lock)
        ours.settimeout(PATIENCE)
        assert ours.recv(1) == b"+"
        process.kill()
        process.wait(PATIENCE)
        ours.send(b"+")
        assert ours.recv(1) == b""
    Path(f"{command}.go").write_text("go\n")
    status = directory / "status"
    wait_until(lambda: status.exists() and status.read_text() == "7")


@pytest.mark.parametrize("program", ["usernsctl-init", "usernsctl-detach"])
@pytest.mark.parametrize("word", ["", "x", "1x", "-1", "99999999999", "250"])
def test_arguments_that_are_not_descriptors_are_named(program: str, word: str) -> None:
    path = ["", "/tmp/pid"] if program == "usernsctl-init" else [word, "", "/tmp", "/tmp/pid"]
    words = [str(PROGRAMS / program), word, word, *path, "/bin/true"]
    done = capture(words, timeout=PATIENCE)
    assert done.returncode == 125
    assert len(done.stderr.splitlines()) == 1
    assert "descriptor" in done.stderr
