"""Functions that prepare the standard input, output and error of a sandbox and of its commands."""

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


def check_file(name: str, fd: int) -> None:
    """Check that gVisor can pass the host's open file `fd` to a program in the sandbox.

    gVisor can't import some files, such as a pidfd. A start with such a file fails late, or hangs.

    :param name: the name of the argument that contains `fd`, for error messages.
    :raises OSError: `fd` is not open.
    :raises CommandError: gVisor can't use the file.
    """
    mode = os.fstat(fd).st_mode
    can_use = stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)
    if stat.S_ISREG(mode):
        # fstat(2) reports namespace files (nsfs), and pidfds on newer kernels, as regular files,
        # but lseek(2) fails on them. lseek(2) also fails on O_PATH descriptors.
        with contextlib.suppress(OSError):
            os.lseek(fd, 0, os.SEEK_CUR)
            can_use = True
    if not can_use:
        link = os.readlink(f"/proc/self/fd/{fd}")
        raise CommandError(
            f"{name}: gVisor can't pass {link} to a command: "
            "only open files, pipes, sockets and character devices",
            step="stdio",
            filename=link,
        )


def prepared_input(stream: Any) -> Any:
    """Check the argument `stdin`, and return it unchanged.

    :param stream: the standard input, of a type that subprocess accepts.
    :raises CommandError: `stream` is not open, or gVisor can't use the file.
    """
    if stream is not None and (not isinstance(stream, int) or stream >= 0):
        try:
            check_file("stdin", stream if isinstance(stream, int) else stream.fileno())
        except CommandError:
            raise
        except OSError as error:
            raise _not_open("stdin", error) from error
    return stream


def _not_open(name: str, error: OSError) -> CommandError:
    reason = f"{name}: {error.strerror or error}"
    return CommandError(reason, step="stdio", errno=error.errno or 0)


def prepared_output(name: str, stream: Any, inherited: int) -> Any:
    """Check an output, and set O_APPEND on a regular file whose offset is at the end of the file.

    Without O_APPEND, gVisor would overwrite the file from its beginning.

    :param name: the name of the argument, for error messages.
    :param stream: the output, of a type that subprocess accepts.
    :param inherited: the descriptor of this process that the command inherits if `stream` is
        ``None``.
    :returns: `stream`.
    :raises CommandError: `stream` is not open, or gVisor can't use the file.
    """
    if stream is None:
        with contextlib.suppress(OSError):  # a closed descriptor needs no O_APPEND
            _core.append_at_end(inherited)
    elif not isinstance(stream, int) or stream >= 0:
        try:
            fd = stream if isinstance(stream, int) else stream.fileno()
            check_file(name, fd)
            _core.append_at_end(fd)
        except CommandError:
            raise
        except OSError as error:
            raise _not_open(name, error) from error
    return stream


def prepared_streams(stdin: Any, stdout: Any, stderr: Any, detach: bool) -> dict[str, Any]:
    """Return the standard streams for a command in gVisor, as arguments for Popen.

    :param detach: whether the command outlives this process. If so, a stream that is ``None``
        becomes /dev/null.
    :raises CommandError: a stream is not open, or gVisor can't use its file.
    """
    if detach:
        from subprocess import DEVNULL

        stdin, stdout, stderr = (
            DEVNULL if stream is None else stream for stream in (stdin, stdout, stderr)
        )
    return {
        "stdin": prepared_input(stdin),
        "stdout": prepared_output("stdout", stdout, 1),
        "stderr": prepared_output("stderr", stderr, 2),
    }


def receive_terminal(console: socket.socket) -> FileIO:
    """Receive the master of the pseudo-terminal that runsc has created (``--console-socket``).

    :param console: the listening socket, to which runsc has already connected and sent the
        terminal's descriptor.
    :raises RunscError: no terminal was received. In a persistent namespace, root of the namespace
        may have connected before runsc did.
    """
    console.setblocking(False)
    fds: list[int] = []
    with contextlib.suppress(BlockingIOError):
        connection, _ = console.accept()
        with connection:
            # Set O_NONBLOCK, because the new socket does not inherit it from the listening socket
            # (accept(2)).
            connection.setblocking(False)
            _, fds = receive(connection, 4096, 1)
    for fd in fds:
        if os.isatty(fd):
            return FileIO(fd, "r+")
        os.close(fd)
    raise RunscError("runsc did not send the descriptor of the terminal", step="terminal")


_FLAGS = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def closed_streams() -> frozenset[int]:
    """Return those of the descriptors 0, 1 and 2 that commands do not inherit from this process.

    A descriptor is not inherited if it is closed or close-on-exec. In a program that has closed its
    standard streams, usernsctl's own descriptors, which are close-on-exec, may have the numbers 0,
    1 and 2.
    """
    return frozenset(fd for fd in (0, 1, 2) if not _is_inheritable(fd))


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError as error:
        return error.errno != errno.EBADF


class Streams:
    """The descriptors that become 0, 1 and 2 of a command.

    The context manager closes the descriptors that it has opened.
    """

    def __init__(self, absent: frozenset[int]) -> None:
        """Create an object to which no descriptors have been added.

        :param absent: the standard streams of this process (0, 1 or 2) to replace by /dev/null, for
            example because they were closed: other files may have reused their descriptor numbers.
        """
        self.fds: list[int] = []
        self._absent = absent
        self._opened = contextlib.ExitStack()

    def add(self, given: int, *, is_fresh: bool) -> None:
        """Add the command's next descriptor.

        :param given: a descriptor, or -1 for the descriptor of this process that has the same
            number as the command's.
        :param is_fresh: whether `given` is the end of a new pipe that only this command inherits.
        :raises OSError: `given` is not open.
        :raises CommandError: gVisor can't use the file.
        """
        if given < 0:
            given = len(self.fds)
            if given in self._absent:
                self._add_opened(open_owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
                return
        own = None
        if not is_fresh:
            check_file(("stdin", "stdout", "stderr")[len(self.fds)], given)
            own = self._reopen(given)
        if own is None:
            self.fds.append(given)
        else:
            self._add_opened(own)

    def _add_opened(self, file: FileIO) -> None:
        self.fds.append(self._opened.enter_context(file).fileno())

    def _reopen(self, fd: int) -> FileIO | None:
        """Open a pipe or terminal again, so that the command gets its own file status flags.

        :returns: the new file; ``None`` if open(2) fails, and for a file of another type: the
            command may share its file status flags with this process.
        """
        mode = os.fstat(fd).st_mode
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        if stat.S_ISREG(mode):
            _core.append_at_end(fd)
            return None
        if not stat.S_ISFIFO(mode) and not (stat.S_ISCHR(mode) and os.isatty(fd)):
            return None
        try:
            # Open with O_NONBLOCK, since open(2) of a FIFO would otherwise block until its other
            # end is open.
            reopened = open_owned(os.open, f"/proc/self/fd/{fd}", (flags & os.O_ACCMODE) | _FLAGS)
        except OSError:
            # Use the original descriptor if this user may not open the file, which may be another
            # user's terminal.
            return None
        try:
            fcntl.fcntl(reopened, fcntl.F_SETFL, flags)
        except BaseException:
            reopened.close()
            raise
        return reopened

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()
