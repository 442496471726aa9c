"""Table in which a proxy counts the connections that it denies; the proxy's parent reads it.

The table is a memfd, or a file of a detached sandbox, so that the counts outlive the proxy. It has
a fixed number of rows. Row 0 counts all denied connections. Each other row contains a distinct
message (the target and the reason) and the number of the message's occurrences.

The proxy and its readers need no lock. The proxy writes the message of a row before the row's
count, and each count by a single aligned store. Readers stop at the first row whose count is 0.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
from functools import partial
from io import FileIO

from usernsctl._lean import TYPE_CHECKING, dataclass
from usernsctl._system.descriptors import ClosedError, Shared, open_owned
from usernsctl._text import shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usernsctl._system.records import Directory

MAX_TEXTS = 255
"""Maximum number of distinct refusals that are listed. Others are only counted."""

_ROW = 512
_SIZE = _ROW * (MAX_TEXTS + 1)
_COUNT = struct.Struct("=Q")

# The errors of open(2) for a file that does not exist or is not a regular file.
_NO_TABLE = (errno.ENOENT, errno.ELOOP, errno.ENXIO)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The denied connections of a proxy to one target, for one reason.

    :ivar text: the host and port (if known) and the reason, in one line of printable characters.
    :ivar count: the number of connections that were denied for this reason.
    """

    text: str
    count: int


def create() -> FileIO:
    """Create an empty table of denied connections in a memfd."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    file = open_owned(os.memfd_create, "usernsctl-refusals", flags)
    with contextlib.ExitStack() as failed:
        failed.enter_context(file)
        os.ftruncate(file.fileno(), _SIZE)
        # Seal the file, so that a hijacked proxy can't shorten the table and make readers fail.
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        failed.pop_all()
    return file


def create_file(path: str, directory: int) -> FileIO:
    """Create an empty table of denied connections in a new file.

    :param directory: a descriptor of the directory against which `path` is resolved.
    :raises OSError: the file can't be created.
    """
    file = FileIO(path, "x+", opener=partial(os.open, mode=0o600, dir_fd=directory))
    with contextlib.ExitStack() as failed:
        failed.enter_context(file)
        # Set the mode explicitly, because the umask may deny later readers access.
        os.fchmod(file.fileno(), 0o600)
        # Allocate all blocks of the file now. Otherwise, a write to the mapped file on a full disk
        # would kill the proxy with SIGBUS.
        os.posix_fallocate(file.fileno(), 0, _SIZE)
        failed.pop_all()
    return file


class _SharedFile(Shared):
    """A file that :meth:`close` closes once no thread uses it."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        super().__init__("the table of refusals", [file.fileno()])

    def _release(self) -> None:
        self.file.close()


class Reader:
    """A reader of a table that another process writes.

    After :meth:`close`, the methods return the last content. Safe to use from several threads.
    """

    def __init__(self, file: FileIO) -> None:
        """Take ownership of a table's file; :meth:`close` closes the file."""
        self._shared = _SharedFile(file)
        self._last: tuple[int, tuple[Refusal, ...]] = (0, ())

    @classmethod
    def open(cls, name: str, directory: Directory) -> Reader | None:
        """Open the table in a file; return ``None`` if no regular file has this name.

        :raises NamespaceError: the file can't be opened, or other users may have written it.
        """
        # Import these modules only here, because a proxy does not need them.
        from usernsctl._system.paths import OpenFile
        from usernsctl._system.records import fault_of, invalid_record, wrap_os_errors

        path = f"{directory.path}/{name}"
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with wrap_os_errors(path, directory.elsewhere):
            try:
                opened = OpenFile.own(path, os.open, name, flags, dir_fd=directory.fd)
            except OSError as error:
                if error.errno in _NO_TABLE:
                    return None
                raise
            with opened:
                status = os.fstat(opened.fd)
                if not stat.S_ISREG(status.st_mode):
                    return None
                if status.st_nlink != 1 or fault_of(status, 0o022) is not None:
                    raise invalid_record(path, "other users may have written to the file")
                return cls(open_owned(fcntl.fcntl, opened.fd, fcntl.F_DUPFD_CLOEXEC, 3))

    def fileno(self) -> int:
        """Return the descriptor of the file with the table of refused connections."""
        return self._shared.file.fileno()

    @property
    def denied(self) -> int:
        """The number of connections that the proxy has denied."""
        with contextlib.suppress(ClosedError), self._shared.use() as (fd,):
            return total(fd)
        return self._last[0]

    def refusals(self) -> tuple[Refusal, ...]:
        """Return a Refusal for each distinct message; at most :data:`MAX_TEXTS` Refusals."""
        with contextlib.suppress(ClosedError), self._shared.use() as (fd,):
            return tuple(listed(fd))
        return self._last[1]

    def close(self) -> None:
        """Read the table for the last time; close the descriptor once no thread uses it."""
        try:
            with contextlib.suppress(ClosedError), self._shared.use() as (fd,):
                self._last = (total(fd), tuple(listed(fd)))
        finally:
            self._shared.close()


def total(fd: int) -> int:
    """Return the total number of denied connections."""
    return _read_count(fd, 0)


def listed(fd: int) -> Iterator[Refusal]:
    """Yield a Refusal for each distinct message, in the order of their first occurrences."""
    for row in range(1, MAX_TEXTS + 1):
        count = _read_count(fd, row)
        if not count:
            return
        text = os.pread(fd, _ROW - _COUNT.size, row * _ROW + _COUNT.size)
        # Do not trust the table, because a hostile client may have taken control of the proxy.
        yield Refusal(shown(text.rstrip(b"\0").decode("utf-8", "replace")), count)


def _read_count(fd: int, row: int) -> int:
    # Pad the count, because another program may have made the file shorter than a table.
    count: int = _COUNT.unpack(os.pread(fd, _COUNT.size, row * _ROW).ljust(_COUNT.size, b"\0"))[0]
    return count


class Table:
    """Writer of the table of denied connections. Only the proxy process creates a writer.

    Only one thread at a time may call a method.
    """

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _SIZE)
        self._rows: dict[str, int] = {}

    def add(self, text: str) -> bool:
        """Count a denied connection; return whether `text` was not listed before, but is now."""
        self._increment(0)
        row = self._rows.get(text)
        if row is not None:
            self._increment(row)
            return False
        row = len(self._rows) + 1
        if row > MAX_TEXTS:
            return False
        self._rows[text] = row
        encoded = text.encode("utf-8", "replace")[: _ROW - _COUNT.size]
        at = row * _ROW + _COUNT.size
        self._memory[at : at + len(encoded)] = encoded
        self._increment(row)
        return True

    @property
    def is_full(self) -> bool:
        """True if the table is full: new messages are then counted in row 0 only."""
        return len(self._rows) == MAX_TEXTS

    def _increment(self, row: int) -> None:
        (count,) = _COUNT.unpack_from(self._memory, row * _ROW)
        _COUNT.pack_into(self._memory, row * _ROW, count + 1)
