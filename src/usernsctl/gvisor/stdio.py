"""What gVisor demands of the standard input, output and error that it is given."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from io import FileIO
from typing import TYPE_CHECKING, Any

from usernsctl._system.descriptors import receive
from usernsctl.errors import CommandError, RunscError

if TYPE_CHECKING:
    import socket


def append_at_end(descriptor: int) -> None:
    """Have what is written through `descriptor` appended, if it is at the end of a file.

    gVisor writes to a file at an offset of its own, from 0: it would overwrite what is there, and
    standard output and error in one file each other. Where we are at the end of the file, to append
    is the same as to write.

    :raises OSError: it is not open.
    """
    status = os.fstat(descriptor)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    is_output = stat.S_ISREG(status.st_mode) and flags & os.O_ACCMODE != os.O_RDONLY
    if is_output and os.lseek(descriptor, 0, os.SEEK_CUR) == status.st_size:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_APPEND)


def prepared_output(name: str, stream: Any, inherited: int) -> Any:
    """Make an output, as subprocess takes it, fit to be written to by gVisor.

    :param name: what the argument is called.
    :param inherited: the descriptor of ours that ``None`` stands for.
    :returns: `stream`.
    :raises CommandError: it is not open.
    """
    if stream is None:
        with contextlib.suppress(OSError):  # it is closed, and so there is nothing to write to
            append_at_end(inherited)
    elif not isinstance(stream, int) or stream >= 0:
        try:
            append_at_end(stream if isinstance(stream, int) else stream.fileno())
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
