"""Attacks by a fake runsc that sends wrong files, or nothing, through the console socket."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tally import Tally

from usernsctl._system.paths import open_path
from usernsctl.errors import RunscError
from usernsctl.gvisor.runsc.stdio import receive_terminal


@pytest.fixture
def console(tmp_path: Path) -> Iterator[socket.socket]:
    """Return a listening Unix socket like the console socket to which runsc connects."""
    with socket.socket(socket.AF_UNIX) as made, open_path(str(tmp_path)) as here:
        # A socket's path must be short (unix(7)), so bind a path below a descriptor in /proc.
        made.bind(f"/proc/self/fd/{here.fd}/console")
        made.listen(1)
        yield made


@contextlib.contextmanager
def connected(console: socket.socket) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as sender:
        sender.connect(os.fsencode(console.getsockname()))
        yield sender


def send(sender: socket.socket, *fds: int) -> None:
    try:
        socket.send_fds(sender, [b"x"], fds)
    finally:
        for fd in set(fds):
            os.close(fd)


def send_nothing(sender: socket.socket) -> None:
    """Send nothing; leave the connection open."""


def send_text(sender: socket.socket) -> None:
    sender.send(b"/dev/ptmx")


def leave(sender: socket.socket) -> None:
    sender.close()


def send_directory(sender: socket.socket) -> None:
    send(sender, os.open("/", os.O_RDONLY))


def send_path(sender: socket.socket) -> None:
    send(sender, os.open("/dev/null", os.O_PATH))


def send_file(sender: socket.socket) -> None:
    send(sender, os.open("/etc/passwd", os.O_RDONLY))


def send_pipe(sender: socket.socket) -> None:
    ours, theirs = os.pipe()
    os.close(theirs)
    send(sender, ours)


def send_many(sender: socket.socket) -> None:
    """Send the maximum number of descriptors in one message (SCM_MAX_FD)."""
    send(sender, *[os.open("/dev/null", os.O_RDWR)] * 253)


@pytest.mark.parametrize(
    "attack",
    [
        send_nothing,
        send_text,
        leave,
        send_directory,
        send_path,
        send_file,
        send_pipe,
        send_many,
    ],
)
def test_hostile_sender_of_other_files_than_terminals(
    console: socket.socket, tally: Tally, attack: Callable[[socket.socket], None]
) -> None:
    before = os.listdir("/proc/self/fd")
    with connected(console) as sender:
        attack(sender)
        tally.tried()
        with contextlib.suppress(RunscError), receive_terminal(console) as taken:
            tally.succeeded(f"{taken} taken for a terminal")
    if len(os.listdir("/proc/self/fd")) != len(before):
        tally.succeeded("a descriptor that stays open")


def test_hostile_sender_of_many_terminals(console: socket.socket, tally: Tally) -> None:
    """Check that the first terminal is used and that all other descriptors are closed."""
    before = os.listdir("/proc/self/fd")
    ours, theirs = pty.openpty()
    with connected(console) as sender:
        socket.send_fds(sender, [b"x"], [ours] * 100)
        tally.tried()
        with receive_terminal(console) as taken:
            assert os.ttyname(theirs)
            assert os.isatty(taken.fileno())
            assert not os.get_inheritable(taken.fileno())
            # Four descriptors are new: `taken`, both ends of the pseudoterminal, and `sender`.
            if len(os.listdir("/proc/self/fd")) != len(before) + 4:
                tally.succeeded("more than one")
    os.close(ours)
    os.close(theirs)
