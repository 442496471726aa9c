"""Descriptors that an object owns, and closes when it is forgotten, from the moment they exist.

A handler of signals may raise an exception after each call of a function in C. A number that was
returned is lost then, and stays open. So one call makes both here, the descriptor and its owner:
map() calls in C what it is given, and what it is given is C.
"""

from __future__ import annotations

import _socket  # private, and the same from 3.11 to 3.14: what socket's Python is made of
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from functools import partial
from io import FileIO
from itertools import chain
from typing import Any

from usernsctl._typing import Self

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

_SO_PASSRIGHTS = 83  # asm-generic/socket.h

_UPDATE = "r+"  # says of a descriptor that exists what Python may do with it, and no more


def owned(make: Callable[..., int], *arguments: Any) -> FileIO:
    """What a function in C makes, but no directory.

    :raises OSError: it could not be made.
    """
    return next(map(FileIO, map(make, *zip(arguments)), [_UPDATE]))


def memory_file(name: str, content: bytes = b"", flags: int = 0) -> FileIO:
    """A file in memory that has no name among files, and stands at its end.

    :param flags: of memfd_create(2), besides MFD_CLOEXEC.
    :raises OSError: it could not be made.
    """
    file = owned(os.memfd_create, name, os.MFD_CLOEXEC | flags)
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return file


def sealed_file(name: str, content: bytes) -> FileIO:
    """A file in memory that nobody can change any more.

    :raises OSError: it could not be made.
    """
    file = memory_file(name, content, os.MFD_ALLOW_SEALING)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return file


def pipe(flags: int = 0) -> tuple[FileIO, FileIO]:
    """The end of a pipe that is read, and the one that is written to.

    :param flags: of pipe2(2), besides O_CLOEXEC.
    :raises OSError: it could not be made.
    """
    numbers = chain.from_iterable(map(os.pipe2, [os.O_CLOEXEC | flags]))
    read, write = map(FileIO, numbers, [_UPDATE, _UPDATE])
    return read, write


class Connection(_socket.socket):
    """One end of a connection of sockets that keep messages apart (SOCK_SEQPACKET, unix(7))."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_connection = partial(Connection, socket.AF_UNIX, socket.SOCK_SEQPACKET, 0)


def socket_pair() -> tuple[Connection, Connection]:
    """Our end of a connection, which never blocks, and that for others.

    Ours has none of the numbers that belong to standard streams, which may be closed. Since Linux
    6.16 it takes no descriptors: to close what came with a message may take as long as its sender
    likes (SO_LINGER, socket(7)).

    :raises OSError: there are no descriptors left.
    """
    made = _socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = map(_connection, map(_socket.socket.detach, made))
    try:
        if ours.fileno() < 3:
            low, ours = ours, _higher(ours)
            low.close()
        ours.setblocking(False)
        with contextlib.suppress(OSError):
            ours.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return ours, theirs


def _higher(low: Connection) -> Connection:
    return next(map(_connection, map(fcntl.fcntl, [low], [fcntl.F_DUPFD_CLOEXEC], [3])))
