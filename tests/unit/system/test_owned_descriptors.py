"""Tests of descriptors that belong to objects such as sockets and directories."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from interrupts import interrupt_each

from usernsctl._system.descriptors import above_stdio, socket_pair
from usernsctl._system.paths import make_directory, open_path, open_program
from usernsctl._system.records import Directory
from usernsctl.gvisor import oci
from usernsctl.gvisor.pool import keeper
from usernsctl.maps import Extent

SO_PASSRIGHTS = 83
LINGERING_SECONDS = 5


def fill(connection: socket.socket) -> None:
    connection.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            connection.send(bytes(65536))
    connection.setblocking(True)


def linger(connection: socket.socket, seconds: int) -> None:
    how = struct.pack("ii", 1, seconds)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)


@pytest.fixture
def lingering() -> Iterator[socket.socket]:
    """Yield a connection whose close() takes LINGERING_SECONDS, because its peer does not read."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as made,
    ):
        fill(made)
        linger(made, LINGERING_SECONDS)
        yield made
        linger(made, 0)


def kernel_refuses_descriptors() -> bool:
    one, other = socket.socketpair()
    with one, other:
        try:
            one.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            return False
    return True


@pytest.mark.skipif(not kernel_refuses_descriptors(), reason="it takes Linux 6.16")
def test_receiving_refuses_descriptors_and_does_not_linger(lingering: socket.socket) -> None:
    ours, theirs = socket_pair()
    with ours, theirs:
        with pytest.raises(PermissionError):
            socket.send_fds(theirs, [b"with a descriptor"], [lingering.fileno()])
        theirs.send(b"plain")
        begin = time.monotonic()
        assert ours.recv(100) == b"plain"
        assert time.monotonic() - begin < LINGERING_SECONDS


def test_descriptors_can_be_sent() -> None:
    ours, theirs = socket_pair()
    with ours, theirs:
        socket.send_fds(ours, [b"with a descriptor"], [ours.fileno()])
        message, fds, _, _ = socket.recv_fds(theirs, 100, 1)
        assert message == b"with a descriptor"
        for fd in fds:
            os.close(fd)


def test_interrupt_leaks_no_path_descriptor(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")

    def run() -> None:
        open_path(str(tmp_path / "link")).close()
        open_path("/dev/fd/0").close()
        open_program(str(tmp_path / "file")).close()
        make_directory(str(tmp_path / "private")).child("..").close()

    # Interrupt after each call that opens a descriptor, and after the call that follows it.
    interrupt_each(run, "open", "dup", "fstat", "readlink", minimum=10)


def test_interrupt_leaks_no_directory_of_records(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    def run() -> None:
        with Directory.open_trusted(str(tmp_path)) as top, top.make("entry", exist_ok=True):
            pass

    interrupt_each(run, "open", "fstat", minimum=5)


def test_interrupt_leaks_no_descriptor_of_a_bundle(tmp_path: Path) -> None:
    extents = [Extent(0, 0, 1)]
    options = oci.BuildOptions(args=["true"], rootfs="/", uid_map=extents, gid_map=extents)
    oci.create(tmp_path, oci.build(options))

    def run() -> None:
        with oci.Bundle(tmp_path) as bundle:
            bundle.read()
            bundle.open_path(".").close()
            oci.open_source(bundle, ".", trusted=True).close()
            bundle.sync()

    interrupt_each(run, "open", "fstat", "readlink", "read", "fsync", minimum=10)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_interrupt_leaks_no_duplicate_above_the_standard_streams() -> None:
    def run() -> None:
        with contextlib.ExitStack() as stack:
            assert above_stdio(1, stack) > 2

    interrupt_each(run, minimum=3)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_interrupt_leaks_no_event_of_a_pool() -> None:
    names = ("eventfd", "fcntl", "next", "extend")
    interrupt_each(lambda: keeper._event().close(), *names, minimum=2)
