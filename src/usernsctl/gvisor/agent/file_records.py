"""Records about files, which are exchanged with ``usernsctl-agent --files`` in a sandbox.

csrc/programs/agent/protocol.h defines the records. Any program in the sandbox may have written the
received records, so each record is checked, and each wait has a deadline.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from usernsctl._system.descriptors import ClosedError, Shared

#: The record kinds, with their numbers in csrc/programs/agent/protocol.h.
DIRECTORY, FILE, LINK, OTHER, DATA, LEAVE, STOPPED, DONE = range(1, 9)

#: The maximum depth of the directories in a copied tree.
DEPTH_MAX = 256
#: The maximum size of the data in one record, in bytes.
DATA_MAX = 256 * 1024
#: The maximum length of a file name, and of a path or link target, in bytes, without a NUL
#: (linux/limits.h).
NAME_MAX, PATH_MAX = 255, 4095

# The maximum length of a path relative to a copied tree, in bytes.
_DEEP_PATH_MAX = (DEPTH_MAX + 2) * (NAME_MAX + 1)
# The maximum length of the name and the link target in each kind of record, in bytes.
_TEXT_MAX = {
    DIRECTORY: NAME_MAX,
    FILE: NAME_MAX,
    LINK: NAME_MAX + PATH_MAX,
    OTHER: NAME_MAX,
    LEAVE: 0,
    STOPPED: _DEEP_PATH_MAX,
    DONE: 0,
}

_HEADER = struct.Struct("<IIIIqQ")
_BUFFER_SIZE = _HEADER.size + DATA_MAX
_NANOSECONDS = 10**9
_ERRNO_MAX = 4095


class InvalidRecordError(ValueError):
    """The error for a received record that ``usernsctl-agent`` never writes."""


class StreamEndError(Exception):
    """The error for a copying program that exited before it wrote its last record."""


class EarlyAnswerError(Exception):
    """The error for a copying program that answered or exited before it read all records."""


class ExpiredError(Exception):
    """The error for a copy whose deadline has passed."""


class StoppedError(Exception):
    """The error for a copy that the caller has cancelled."""


class Record(NamedTuple):
    """A record, without the data that follow a DATA record.

    :ivar mode: the type and the permissions of a file (inode(7)). In a STOPPED record, an errno; in
        a LEAVE record, 1 if the file has changed while it was read.
    :ivar name: the name of a file; empty for the copied file or directory itself. In a STOPPED
        record, a path relative to the copied file or directory.
    :ivar target: the target of a link.
    :ivar size: the size of a file, or of the data that follow, in bytes.
    :ivar mtime_ns: the time of the last modification, in ns.
    """

    kind: int
    mode: int = 0
    name: bytes = b""
    target: bytes = b""
    size: int = 0
    mtime_ns: int = 0

    def encode(self) -> bytes:
        """Return the encoded record. After a DATA record, the caller must write the data."""
        text = self.name + self.target
        seconds, nanoseconds = divmod(self.mtime_ns, _NANOSECONDS)
        following = self.size if self.kind == DATA else len(text)
        length = len(self.name) if self.kind == LINK else 0 if self.kind == DATA else self.size
        return _HEADER.pack(self.kind, self.mode, following, nanoseconds, seconds, length) + text


class Stop:
    """An event by which one thread stops a copy that another thread performs."""

    def __init__(self) -> None:
        """Open the eventfd that :meth:`set` makes readable.

        :raises OSError: the process or the host has no free file descriptor.
        """
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK
        self._shared = Shared("the order", map(os.eventfd, [0], [flags]))

    def set(self) -> None:
        """Stop the copy. Does nothing once the copy has ended."""
        with contextlib.suppress(ClosedError), self._shared.use() as fds:
            os.eventfd_write(fds[0], 1)

    def fileno(self) -> int:
        """Return the eventfd that :meth:`set` makes readable. Only for the copying thread."""
        with self._shared.use() as fds:
            return fds[0]

    def close(self) -> None:
        """Close the eventfd. Only the copying thread may call this."""
        self._shared.close()


class Patience:
    """The deadline of a copy, and the event that stops the copy."""

    def __init__(self, deadline: float | None, stop: Stop | None = None) -> None:
        """Set the deadline, as a :func:`time.monotonic` time; ``None`` for no deadline."""
        self.deadline = deadline
        self._stop = None if stop is None else stop.fileno()

    def check(self) -> float | None:
        """Check that the deadline has not passed; return the seconds that are left.

        Return ``None`` if there is no deadline.

        :raises ExpiredError: the deadline has passed.
        """
        if self.deadline is None:
            return None
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise ExpiredError
        return left

    def wait(self, *wanted: tuple[int, int]) -> int:
        """Wait until a descriptor is ready (poll(2)), and return that descriptor.

        :param wanted: pairs of a descriptor and the events to wait for. If several descriptors are
            ready, the last of them is returned.
        :raises ExpiredError: the deadline has passed.
        :raises StoppedError: the caller has stopped the copy.
        """
        poll = select.poll()
        for fd, events in wanted:
            poll.register(fd, events)
        if self._stop is not None:
            poll.register(self._stop, select.POLLIN)
        while True:
            left = self.check()
            # Wait for at most an hour, well below the maximum timeout of poll(2).
            ready = dict(poll.poll(None if left is None else min(left, 3600) * 1000 + 1))
            if self._stop in ready:
                raise StoppedError
            for fd, _ in reversed(wanted):
                if fd in ready:
                    return fd


class RecordReader:
    """A reader of records from a non-blocking pipe, with a buffer of fixed size."""

    def __init__(self, fd: int, patience: Patience) -> None:
        self._fd = fd
        self._patience = patience
        self._view = memoryview(bytearray(_BUFFER_SIZE))
        self._from = self._to = 0

    def _fill(self) -> None:
        """Read more bytes into the buffer, after the bytes that have not been returned yet.

        :raises StreamEndError: the pipe is at end of file.
        """
        if self._from == self._to:
            self._from = self._to = 0
        elif self._to == _BUFFER_SIZE:
            left = bytes(self._view[self._from :])
            self._view[: len(left)] = left
            self._from, self._to = 0, len(left)
        self._to += self._read_pipe([self._view[self._to :]])

    def _read_pipe(self, buffers: Sequence[memoryview]) -> int:
        """Read bytes from the pipe into `buffers`; return the number of bytes.

        :raises StreamEndError: the pipe is at end of file.
        """
        self._patience.check()
        while True:
            try:
                count = os.readv(self._fd, buffers)
            except BlockingIOError:
                self._patience.wait((self._fd, select.POLLIN))
                continue
            if not count:
                raise StreamEndError
            return count

    def _take(self, size: int) -> memoryview:
        """Return the next `size` bytes as a view that is valid until the buffer is filled again."""
        while self._to - self._from < size:
            self._fill()
        start = self._from
        self._from += size
        return self._view[start : self._from]

    def read(self) -> Record:
        """Return the next record; the data of a DATA record must be read by :meth:`data`.

        :raises InvalidRecordError: ``usernsctl-agent`` never writes such a record.
        :raises StreamEndError: there are no more records.
        :raises ExpiredError: the deadline has passed.
        :raises StoppedError: the caller has stopped the copy.
        """
        header = _HEADER.unpack(self._take(_HEADER.size))
        kind, mode, size, nanoseconds, seconds, length = header
        if kind == DATA:
            if not 0 < size <= DATA_MAX:
                raise InvalidRecordError(f"a record has {size} bytes of data, not 1 to {DATA_MAX}")
            return Record(DATA, size=size)
        if kind not in _TEXT_MAX or size > _TEXT_MAX[kind]:
            raise InvalidRecordError(f"a record of the kind {kind} has {size} bytes of text")
        text = bytes(self._take(size))
        target = b""
        if kind == LINK:
            if not 0 < length < size or length > NAME_MAX:
                raise InvalidRecordError("a link has no valid name or target")
            text, target = text[:length], text[length:]
            length = len(target)
        if b"\0" in text + target or nanoseconds >= _NANOSECONDS:
            raise InvalidRecordError("a name has a NUL character, or a time is out of range")
        if kind == STOPPED and not 0 < mode <= _ERRNO_MAX:
            raise InvalidRecordError(f"the error number {mode} is out of range")
        return Record(kind, mode, text, target, length, seconds * _NANOSECONDS + nanoseconds)

    def data(self, size: int) -> Iterator[memoryview]:
        """Yield the data of a record in chunks. Each chunk is valid until the next one is read.

        :raises StreamEndError: as :meth:`read` does.
        """
        while size:
            if self._from == self._to:
                self._fill()
            part = self._take(min(size, self._to - self._from))
            size -= len(part)
            yield part

    def read_into(self, target: memoryview) -> None:
        """Read the data of a record into `target`, bypassing the buffer if the buffer is empty.

        :raises StreamEndError: as :meth:`read` does.
        """
        while target:
            if self._from < self._to:
                part = self._take(min(len(target), self._to - self._from))
                target[: len(part)] = part
                target = target[len(part) :]
                continue
            count = self._read_pipe([target, self._view])
            self._from, self._to = 0, max(count - len(target), 0)
            target = target[count:]


@contextlib.contextmanager
def _without_sigpipe() -> Iterator[None]:
    """Keep a write to a closed pipe from sending SIGPIPE, whose default action kills this process.

    Python ignores SIGPIPE, but programs may restore the default action. The untrusted program in
    the sandbox may close its end of the pipe at any time.
    """
    if signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN:
        yield
        return
    pipe = {signal.SIGPIPE}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, pipe)
    try:
        yield
    except BrokenPipeError:
        # Discard the pending SIGPIPE, unless the caller had blocked SIGPIPE before this call.
        if signal.SIGPIPE not in before:
            signal.sigtimedwait(pipe, 0)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class RecordWriter:
    """A writer of records to a non-blocking pipe, with a buffer of fixed size."""

    def __init__(self, fd: int, answers: int, patience: Patience) -> None:
        """Create a writer to the pipe `fd`.

        :param answers: the descriptor from which the answer of the program in the sandbox is read.
            If that descriptor becomes readable while the pipe is full, the write fails.
        """
        self._fd = fd
        self._answers = answers
        self._patience = patience
        self._view = memoryview(bytearray(_BUFFER_SIZE))
        self._size = 0

    def write(self, record: Record) -> None:
        """Write a record without data.

        :raises EarlyAnswerError: the program in the sandbox reads no more records.
        :raises ExpiredError: the deadline has passed.
        :raises StoppedError: the caller has stopped the copy.
        """
        encoded = record.encode()
        if len(encoded) > _BUFFER_SIZE - self._size:
            self.flush()
        self._view[self._size : self._size + len(encoded)] = encoded
        self._size += len(encoded)

    def write_data(self, data: memoryview) -> None:
        """Write `data` as one or more DATA records.

        :raises EarlyAnswerError: as :meth:`write` does.
        """
        while data:
            part = data[:DATA_MAX]
            self.write(Record(DATA, size=len(part)))
            self.flush()
            self._send(part)
            data = data[DATA_MAX:]

    def write_from(self, file: int, most: int) -> int:
        """Read at most `most` bytes of a file, and write them as a DATA record.

        :returns: the number of bytes that were read, 0 at the end of the file.
        :raises EarlyAnswerError: as :meth:`write` does.
        :raises OSError: the file can't be read.
        """
        # Flush the buffer if it has less than a page of free space, because small reads would need
        # many system calls.
        if _BUFFER_SIZE - self._size < _HEADER.size + 4096:
            self.flush()
        start = self._size + _HEADER.size
        count = os.readv(file, [self._view[start : min(start + most, _BUFFER_SIZE)]])
        if count:
            self.write(Record(DATA, size=count))
            self._size += count
        return count

    def flush(self) -> None:
        """Write all buffered records to the pipe.

        :raises EarlyAnswerError: as :meth:`write` does.
        """
        size, self._size = self._size, 0
        self._send(self._view[:size])

    def _send(self, data: memoryview) -> None:
        self._patience.check()
        while data:
            try:
                with _without_sigpipe():
                    data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                both = (self._fd, select.POLLOUT), (self._answers, select.POLLIN)
                if self._patience.wait(*both) == self._answers:
                    raise EarlyAnswerError from None
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                raise EarlyAnswerError from None
