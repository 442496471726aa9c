"""Standard input, output and error of a sandbox and of its commands."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from io import FileIO
from typing import TYPE_CHECKING, Any

from usernsctl import _core
from usernsctl._system.descriptors import open_owned, receive
from usernsctl.errors import CommandError, RunscError

if TYPE_CHECKING:
    import socket


def prepared_output(name: str, stream: Any, inherited: int) -> Any:
    """Make an output, as subprocess takes it, fit to be written to by gVisor.

    :param name: what the argument is called.
    :param inherited: the descriptor of ours that ``None`` stands for.
    :returns: `stream`.
    :raises CommandError: it is not open.
    """
    if stream is None:
        with contextlib.suppress(OSError):  # it is closed, and so there is nothing to write to
            _core.append_at_end(inherited)
    elif not isinstance(stream, int) or stream >= 0:
        try:
            _core.append_at_end(stream if isinstance(stream, int) else stream.fileno())
        except OSError as error:
            number = error.errno or 0
            reason = f"{name}: {error.strerror or error}"
            raise CommandError(reason, step="stdio", errno=number) from error
    return stream


def prepared_streams(stdin: Any, stdout: Any, stderr: Any, detach: bool) -> dict[str, Any]:
    """Standard input, output and error for a command in gVisor, as a Popen takes them.

    :param detach: whether the command outlives this process, and so gets nothing of what we have.
    :raises CommandError: one is not open.
    """
    if detach:
        from subprocess import DEVNULL

        stdin, stdout, stderr = (
            DEVNULL if stream is None else stream for stream in (stdin, stdout, stderr)
        )
    return {
        "stdin": stdin,
        "stdout": prepared_output("stdout", stdout, 1),
        "stderr": prepared_output("stderr", stderr, 2),
    }


def receive_terminal(console: socket.socket) -> FileIO:
    """Our end of the terminal that runsc has made (``--console-socket``).

    :param console: the socket that it has sent that to, and does not wait.
    :raises RunscError: it has sent none. In a kept namespace, root may have connected in its place.
    """
    console.setblocking(False)
    fds: list[int] = []
    with contextlib.suppress(BlockingIOError):
        connection, _ = console.accept()
        with connection:
            # It does not inherit this of the socket.
            connection.setblocking(False)
            _, fds = receive(connection, 4096, 1)
    for fd in fds:
        if os.isatty(fd):
            return FileIO(fd, "r+")
        os.close(fd)
    raise RunscError("runsc has made no terminal", step="terminal")


_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def closed_streams() -> frozenset[int]:
    """Which of our own standard input, output and error are not open."""
    return frozenset(fd for fd in (0, 1, 2) if not _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        return error.errno != errno.EBADF
    return True


class Streams:
    """The three descriptors for a command; those that were opened for it are closed with this."""

    def __init__(self, absent: frozenset[int]) -> None:
        """Begin with none.

        :param absent: which of our own the command gets /dev/null in place of, such as those that
            are not open; others may have their numbers by now.
        """
        self.fds: list[int] = []
        self._absent = absent
        self._opened = contextlib.ExitStack()

    def add(self, given: int, *, is_fresh: bool) -> None:
        """Add the next.

        :param given: a descriptor, or -1: our own.
        :param is_fresh: whether it is of a pipe that was made for this command, and not added yet.
        :raises OSError: it is not open.
        """
        if given < 0:
            given = len(self.fds)
            if given in self._absent:
                self._add_opened(open_owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
                return
        own = None if is_fresh else self._own(given)
        if own is None:
            self.fds.append(given)
        else:
            self._add_opened(own)

    def _add_opened(self, file: FileIO) -> None:
        self.fds.append(self._opened.enter_context(file).fileno())

    def _own(self, fd: int) -> FileIO | None:
        """The same pipe or terminal, opened anew; ``None``: it may be given as it is."""
        mode = os.fstat(fd).st_mode
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if stat.S_ISREG(mode):
            _core.append_at_end(fd)
            return None
        if not stat.S_ISFIFO(mode) and not (stat.S_ISCHR(mode) and os.isatty(fd)):
            return None
        try:
            # A named pipe that nobody has open at its other end would have us wait.
            made = open_owned(os.open, f"/proc/self/fd/{fd}", (flags & os.O_ACCMODE) | _FLAGS)
        except OSError:
            # Whoever it belongs to does not let us open it.
            return None
        try:
            fcntl.fcntl(made, fcntl.F_SETFL, flags)
        except BaseException:
            made.close()
            raise
        return made

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
