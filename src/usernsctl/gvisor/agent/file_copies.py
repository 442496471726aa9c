"""Copies of files into and out of a running sandbox.

The copying program, ``usernsctl-agent --files``, reads or creates the files in the sandbox. The
program runs as a command of the sandbox, with the user and the limits of a command, and needs no
file of the root filesystem. Nothing in the sandbox is trusted. :mod:`usernsctl._system.trees`
creates the files on the host. Copies out of the sandbox have size limits, and every copy may have a
deadline.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from usernsctl._lean import LateModule, dataclass
from usernsctl._system import trees
from usernsctl._system.descriptors import deadline_after, pipe, seconds_left
from usernsctl._system.paths import check_path
from usernsctl.commands.arguments import StrOrBytesPath
from usernsctl.commands.popen import DEVNULL, TimeoutExpired
from usernsctl.errors import SandboxFileError, UsernsError, cause_of_file_error
from usernsctl.gvisor.agent import file_records as records
from usernsctl.gvisor.agent.commands import SandboxCommands
from usernsctl.gvisor.agent.file_records import Patience, Record, RecordReader, RecordWriter, Stop
from usernsctl.gvisor.agent.popen import SandboxPopen
from usernsctl.gvisor.agent.protocol import AgentUnresponsive
from usernsctl.gvisor.launch.steps import AGENT_INSIDE

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = LateModule("asyncio")

_T = TypeVar("_T")

# The capacity to request for each pipe (F_SETPIPE_SZ), in bytes. The request fails if the user's
# pipes have too many pages (pipe(7)); the pipe then keeps its default capacity.
_PIPE_SIZE = 1 << 20

# The timeout for ``usernsctl-agent --files`` to exit after its last record, in seconds.
_END_SECONDS = 1

# The maximum number of paths in each list of a CopyReport.
_PATHS_MAX = 1000

# A size in bytes that no file exceeds.
_SIZE_MAX = 2**63

_SKIPPED_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}
_OUTSIDE_LINK = "a symbolic link that leads out of the tree"
_REPLACED = "replaced or removed while it was copied"

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block device",
    stat.S_IFCHR: "character device",
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """An entry of a directory in a sandbox.

    :ivar name: the file name. Bytes that are not UTF-8 are decoded as surrogate escapes
        (:pep:`383`).
    :ivar type: ``"file"``, ``"directory"``, ``"symlink"``, ``"fifo"``, ``"socket"``,
        ``"block device"`` or ``"character device"``.
    :ivar size: the size in bytes.
    :ivar mode: the permissions (chmod(2)).
    :ivar mtime: the time of the last modification, in seconds since 1970.
    :ivar target: the target of a symbolic link, else empty.
    """

    name: str
    type: str
    size: int
    mode: int
    mtime: float
    target: str = ""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """The result of a copy into or out of a sandbox.

    :ivar files: the number of copied regular files.
    :ivar directories: the number of copied directories.
    :ivar links: the number of copied symbolic links.
    :ivar bytes: the size of the copied files, in bytes.
    :ivar skipped: the files that were not copied, at most 1000. Each has a path relative to the
        copied tree, and the reason.
    :ivar skipped_count: the number of files that were not copied.
    :ivar changed: the files that changed while they were copied, at most 1000, as paths relative to
        the copied tree. A copy has no more bytes than the file had when it was opened.
    :ivar changed_count: the number of files that changed while they were copied.
    """

    files: int = 0
    directories: int = 0
    links: int = 0
    bytes: int = 0
    skipped: tuple[tuple[str, str], ...] = ()
    skipped_count: int = 0
    changed: tuple[str, ...] = ()
    changed_count: int = 0


class _Counts:
    """The counters and lists for a :class:`CopyReport`."""

    def __init__(self) -> None:
        self.files = self.directories = self.links = self.bytes = 0
        self._skipped: list[tuple[str, str]] = []
        self._changed: list[str] = []
        self.skipped_count = self.changed_count = 0

    @property
    def entries(self) -> int:
        return self.files + self.directories + self.links + self.skipped_count

    def skip(self, path: bytes, mode: int) -> None:
        """Record `path` as an entry that is not copied.

        :param mode: the mode of the FIFO, socket or device; 0 if the entry was replaced during the
            copy.
        """
        self._add_skipped(path, _SKIPPED_KINDS.get(stat.S_IFMT(mode), _REPLACED))

    def skip_link(self, path: bytes) -> None:
        self._add_skipped(path, _OUTSIDE_LINK)

    def _add_skipped(self, path: bytes, why: str) -> None:
        self.skipped_count += 1
        if len(self._skipped) < _PATHS_MAX:
            self._skipped.append((os.fsdecode(path), why))

    def add_changed(self, path: bytes) -> None:
        self.changed_count += 1
        if len(self._changed) < _PATHS_MAX:
            self._changed.append(os.fsdecode(path))

    def report(self) -> CopyReport:
        return CopyReport(
            self.files,
            self.directories,
            self.links,
            self.bytes,
            tuple(self._skipped),
            self.skipped_count,
            tuple(self._changed),
            self.changed_count,
        )


class BinaryReader(Protocol):
    """An object from which bytes can be read, such as a file opened in binary mode."""

    def read(self, size: int, /) -> bytes:
        """Return at most `size` bytes; an empty object means end of file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The sandbox and the options of a copy.

    :ivar commands: the object that starts commands in the sandbox.
    :ivar id: the container id.
    :ivar user: the uid and the gid of the copying program in the sandbox; ``None`` for 0 and 0.
    :ivar timeout: the time limit of the copy, in seconds; ``None`` for no limit.
    :ivar stop: an object by which another thread can stop the copy, or ``None``.
    """

    commands: SandboxCommands
    id: str
    user: tuple[int, int] | None
    timeout: float | None
    stop: Stop | None = None


def path_inside(name: str, path: StrOrBytesPath, base: str | None = None) -> str:
    """Return a path in a sandbox as a string, without trailing slashes.

    :param base: the directory against which a relative path is resolved; if ``None``, relative
        paths are rejected.

    :raises TypeError: `path` is not a path.
    :raises ValueError: `path` is empty or too long, has a NUL character, or is relative without
        `base`.
    """
    found = check_path(name, path)
    if found is None:
        raise TypeError(f"{name} must be a path, not None")
    if not found.startswith("/"):
        if base is None:
            raise ValueError(f"{name}: {found!r} is not an absolute path in the sandbox")
        found = posixpath.join(base, found)
    if len(os.fsencode(found)) > records.PATH_MAX:
        raise ValueError(
            f"{name}: a path of {len(os.fsencode(found))} bytes; the kernel accepts at most "
            f"{records.PATH_MAX}"
        )
    return found.rstrip("/") or "/"


class _Copy:
    """A context manager that runs the copying program in the sandbox for one copy."""

    def __init__(self, place: Place, verb: str, path: str, *options: str) -> None:
        self.place = place
        self.path = path
        self._verb = verb
        self._argv = (AGENT_INSIDE, "--files", verb, path, *options)
        self._deadline = deadline_after(place.timeout)
        self.patience = Patience(self._deadline, place.stop)
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> _Copy:
        try:
            with self._opened:
                self._start()
                self._opened = self._opened.pop_all()
        except (AgentUnresponsive, records.ExpiredError):
            if seconds_left(self._deadline) == 0:
                self._raise_timeout()
            raise
        return self

    def _start(self) -> None:
        """Start the copying program in the sandbox, with pipes for its input and its output."""
        pipes = contextlib.ExitStack()
        self._opened.push(pipes)
        output, theirs_out = map(pipes.enter_context, pipe())
        theirs_in, input = map(pipes.enter_context, pipe())
        for end in (output, input):
            os.set_blocking(end.fileno(), False)
            with contextlib.suppress(OSError):
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        options: dict[str, Any] = {"stdin": theirs_in, "stdout": theirs_out, "stderr": DEVNULL}
        if self.place.user is not None:
            options["user"] = self.place.user
        self._command = self.place.commands.start_program(self._argv, options, self._deadline)
        self._opened.callback(_end, self._command)
        # Register this callback after _end(), so that ExitStack calls it before _end(): end of file
        # makes the copying program remove a partial file and exit.
        self._opened.callback(pipes.close)
        theirs_in.close()
        theirs_out.close()
        self.reader = RecordReader(output.fileno(), self.patience)
        self.writer = RecordWriter(input.fileno(), output.fileno(), self.patience)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._opened:
            if isinstance(error, records.ExpiredError):
                self._raise_timeout()
            if isinstance(error, records.InvalidRecordError):
                raise self.program_error(f"sent an invalid record: {error}") from None
            if isinstance(error, records.StreamEndError):
                raise self._ended_error() from None

    def inside(self, path: bytes = b"") -> str:
        """Convert `path`, relative to the copied tree, to an absolute path in the sandbox."""
        return os.path.join(self.path, os.fsdecode(path)) if path else self.path

    def failure(self, number: int, path: bytes = b"", why: str | None = None) -> SandboxFileError:
        """Return the error for the file `path` in the sandbox.

        :param number: the errno.
        :param path: the path, relative to the copied file or directory.
        :param why: the reason; by default, the text for `number`.
        """
        name = self.inside(path)
        kind = SandboxFileError.kind_for(number)
        reason = why or _REASONS.get(number) or os.strerror(number)
        return kind(
            f"{name} in the sandbox {self.place.id}: {reason}",
            step="inside",
            errno=number,
            filename=name,
            cause=cause_of_file_error(number),
            remedy=_REMEDIES.get(number),
        )

    def _raise_timeout(self) -> NoReturn:
        why = f"the copy took more than {self.place.timeout:g} seconds"
        raise self.failure(errno.ETIMEDOUT, why=why) from None

    def program_error(self, what: str) -> SandboxFileError:
        """Return the error for a copying program in the sandbox that failed or misbehaved."""
        return SandboxFileError(
            f"{self.path} in the sandbox {self.place.id}: the copy program {what}",
            step="inside",
            filename=self.path,
            cause="sandbox-agent",
            remedy="close the sandbox: a program inside may have killed or replaced the copy "
            "program",
        )

    def _ended_error(self) -> Exception:
        """Return the error for a copying program that exited before its last record."""
        status = None
        with contextlib.suppress(TimeoutExpired):
            status = self._command.wait(_END_SECONDS)
        if (error := self._command._place.ended()) is not None:
            return error
        if status is None:
            return self.program_error("has closed its output")
        if status < 0:
            return self.program_error(f"was killed by signal {-status}")
        return self.program_error(f"has ended too early, with status {status}")

    def read(self, directory: bytes = b"") -> Record:
        """Return the next record from the copying program; raise an error that the record reports.

        :param directory: the directory against which the path in an error record is resolved,
            as a path relative to the copied directory; by default, the copied directory itself.
        :raises SandboxFileError: the program has reported an error.
        """
        record = self.reader.read()
        if record.kind == records.STOPPED:
            raise self.failure(record.mode, b"/".join(filter(None, (directory, record.name))))
        return record

    @contextlib.contextmanager
    def sending(self, final: Record) -> Iterator[RecordWriter]:
        """Yield the writer of records; after the ``with`` body, write `final`, and read the answer.

        :raises SandboxFileError: the program in the sandbox has reported an error.
        """
        with contextlib.suppress(records.EarlyAnswerError):
            yield self.writer
            self.writer.write(final)
            self.writer.flush()
        answer = self.read()
        if answer.kind != records.DONE:
            raise records.InvalidRecordError(f"the answer has the invalid kind {answer.kind}")


# Messages for those errnos of the copying program for which strerror(3) would mislead.
_REASONS = {
    errno.EINVAL: "neither a regular file nor a directory",
    errno.ENXIO: "a FIFO or socket, not a regular file",
    errno.EPROTO: "the copy program in the sandbox received invalid records",
    errno.ENAMETOOLONG: "a name or path is too long, or a tree has more than "
    f"{records.DEPTH_MAX} levels",
}
_REMEDIES = {
    errno.EEXIST: "name another path, or pass merge=True (usernsctl cp: --force)",
    errno.ENOSPC: "delete files in the sandbox, or give its filesystem a larger size",
    errno.EFBIG: "raise the limit of the sandbox for the size of a file (fsize)",
}


def _end(command: SandboxPopen[Any]) -> None:
    """Wait for the copying program to exit; kill it after `_END_SECONDS`."""
    try:
        command.wait(_END_SECONDS)
    except (TimeoutExpired, OSError):
        command._end()


@contextlib.contextmanager
def _outside(path: str) -> Iterator[None]:
    """Convert an OSError raised in the ``with`` body to the error for a path on the host.

    :raises SandboxFileError: the ``with`` body raised an OSError.
    """
    try:
        yield
    except UsernsError:
        raise
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else path
        raise _outside_error(error, where) from error


def _outside_error(error: OSError, path: str) -> SandboxFileError:
    """Convert `error` to the error for a path on the host."""
    number = error.errno or 0
    return SandboxFileError.kind_for(number)(
        f"{path}: {error.strerror}",
        step="outside",
        errno=number,
        filename=path,
        cause=cause_of_file_error(number),
        remedy="name a path that does not exist" if number == errno.EEXIST else None,
    )


def _limit_error(copy: _Copy, path: bytes, name: str, limit: int) -> SandboxFileError:
    error = copy.failure(errno.EFBIG, path, f"the copy would exceed {name}={limit}")
    error.remedy = None
    error.explain(remedy=f"pass a larger {name}")
    return error


# ---- copying out of the sandbox ------------------------------------------------------------------


def read_file(place: Place, path: str, max_bytes: int) -> bytes:
    """Return the content of a file: see :meth:`usernsctl.Sandbox.read_file`."""
    with _Copy(place, "read", path) as copy:
        record = copy.read()
        if record.kind != records.FILE:
            raise records.InvalidRecordError(f"the first record has the invalid kind {record.kind}")
        if record.size > max_bytes:
            raise _limit_error(copy, b"", "max_bytes", max_bytes)
        # Allocate the whole size at once, because a growing buffer would be copied repeatedly.
        # getvalue() does not copy a full buffer.
        content = io.BytesIO(bytes(record.size))
        more = bytearray()
        with content.getbuffer() as view:
            size = _read_content(copy, view, more, max_bytes)
    content.truncate(size)
    return content.getvalue() + more if more else content.getvalue()


def _read_content(copy: _Copy, view: memoryview, more: bytearray, max_bytes: int) -> int:
    """Read the data of a file into `view`, and the data that don't fit there into `more`.

    The first record that does not fit into the rest of `view`, and all later records, go to `more`.

    :returns: the number of bytes read into `view`.
    """
    size = 0
    while (record := copy.read()).kind == records.DATA:
        if record.size > max_bytes - size - len(more):
            raise _limit_error(copy, b"", "max_bytes", max_bytes)
        if more or record.size > len(view) - size:
            # The file is larger than its reported size. For example, files in /proc report 0.
            for part in copy.reader.data(record.size):
                more += part
            continue
        copy.reader.read_into(view[size : size + record.size])
        size += record.size
    if record.kind != records.LEAVE or copy.read().kind != records.DONE:
        raise records.InvalidRecordError("the end of the file is missing")
    return size


def list_dir(place: Place, path: str, max_entries: int) -> list[FileEntry]:
    """Return the entries of a directory: see :meth:`usernsctl.Sandbox.list_dir`."""
    found: list[FileEntry] = []
    with _Copy(place, "list", path) as copy:
        while (record := copy.read()).kind != records.DONE:
            if len(found) == max_entries:
                raise _limit_error(copy, b"", "max_entries", max_entries)
            if record.kind == records.OTHER and not record.mode:
                continue  # the entry was removed after it was listed
            found.append(_entry_of(record))
    return found


def _entry_of(record: Record) -> FileEntry:
    kind = _TYPES.get(stat.S_IFMT(record.mode))
    if kind is None or not trees.is_file_name(record.name):
        raise records.InvalidRecordError("a directory entry has no valid type or name")
    return FileEntry(
        name=os.fsdecode(record.name),
        type=kind,
        size=record.size,
        mode=stat.S_IMODE(record.mode),
        mtime=record.mtime_ns / 1e9,
        target=os.fsdecode(record.target),
    )


class _Getting:
    """A copy of a file or directory out of the sandbox."""

    def __init__(self, copy: _Copy, destination: str, max_bytes: int, max_files: int) -> None:
        self._copy = copy
        self._destination = destination
        self._max_bytes = max_bytes
        self._max_files = max_files
        self.counts = _Counts()

    def run(self, writer: trees.TreeWriter) -> None:
        """Create on the host the files and directories that the program in the sandbox sends."""
        while (record := self._copy.read(writer.directory_path)).kind != records.DONE:
            try:
                self._perform(writer, record)
            except ValueError as error:
                raise records.InvalidRecordError(str(error)) from None
            except UsernsError:
                raise
            except OSError as error:
                path = os.fsdecode(writer.path_of(record.name))
                if error.errno == errno.EEXIST and path:
                    raise self._twice_error(path) from error
                where = os.path.join(self._destination, path) if path else self._destination
                raise _outside_error(error, where) from error
        if not writer.is_complete:
            raise records.InvalidRecordError("the end of the tree is missing")

    def _twice_error(self, path: str) -> SandboxFileError:
        where = os.path.join(self._destination, path)
        return SandboxFileError.kind_for(errno.EEXIST)(
            f"{where} exists already in the copy: the source has changed, "
            "or the target filesystem ignores case",
            step="outside",
            errno=errno.EEXIST,
            filename=where,
        )

    def _perform(self, writer: trees.TreeWriter, record: Record) -> None:
        """Create the file or directory that `record` describes, or write the record's data.

        :raises ValueError: the record can't follow the previous record.
        :raises OSError: a file on the host can't be created or written.
        """
        if record.kind == records.DATA:
            if not writer.is_in_file:
                raise ValueError("data without an open file")
            self._check_bytes(writer.path_of(), record.size)
            self.counts.bytes += record.size
            for part in self._copy.reader.data(record.size):
                writer.write(part)
        elif record.kind == records.LEAVE:
            if writer.is_in_file and record.mode:
                self.counts.add_changed(writer.path_of())
            writer.leave()
        else:
            self._add(writer, record)

    def _check_bytes(self, path: bytes, size: int) -> None:
        """Check that `size` more bytes do not exceed the limits of the copy.

        :raises SandboxFileError: the copy would exceed a limit.
        """
        if size > self._max_bytes - self.counts.bytes:
            raise _limit_error(self._copy, path, "max_bytes", self._max_bytes)

    def _add(self, writer: trees.TreeWriter, record: Record) -> None:
        counts, name, path = self.counts, record.name, writer.path_of(record.name)
        if counts.entries == self._max_files:
            raise _limit_error(self._copy, path, "max_files", self._max_files)
        if record.kind == records.DIRECTORY:
            if writer.depth == records.DEPTH_MAX:
                raise self._copy.failure(errno.ENAMETOOLONG, path)
            counts.directories += 1
            writer.enter_directory(name, record.mode, record.mtime_ns)
        elif record.kind == records.FILE:
            self._check_bytes(path, record.size)
            counts.files += 1
            writer.enter_file(name, record.mode, record.mtime_ns)
        elif record.kind == records.LINK and not trees.leads_out(record.target, writer.depth - 1):
            counts.links += 1
            writer.link(name, record.target, record.mtime_ns)
        elif record.kind == records.LINK:
            counts.skip_link(path)
        else:
            counts.skip(path, record.mode)


def get(place: Place, path: str, destination: str, max_bytes: int, max_files: int) -> CopyReport:
    """Copy a file or directory out of the sandbox: see :meth:`usernsctl.Sandbox.get`."""
    with _outside(destination):
        writer = trees.TreeWriter(destination)
        try:
            with _Copy(place, "get", path) as copy:
                getting = _Getting(copy, destination, max_bytes, max_files)
                getting.run(writer)
            writer.keep()
        finally:
            writer.close()
    return getting.counts.report()


# ---- copying into the sandbox --------------------------------------------------------------------


def write_file(
    place: Place, path: str, data: bytes | memoryview | BinaryReader, mode: int, *, parents: bool
) -> None:
    """Write a file: see :meth:`usernsctl.Sandbox.write_file`."""
    options = ["--parents"] if parents else []
    if isinstance(data, bytes | bytearray | memoryview):
        # Cast before the copying program truncates the file, since the cast may raise TypeError.
        data = memoryview(data).cast("B")
    with (
        _Copy(place, "write", path, *options) as copy,
        copy.sending(Record(records.DONE, mode)) as writer,
    ):
        if isinstance(data, memoryview):
            writer.write_data(data)
            return
        while part := data.read(records.DATA_MAX):
            writer.write_data(memoryview(part).cast("B"))


def put(place: Place, tree: str, path: str, *, merge: bool, parents: bool) -> CopyReport:
    """Copy a file or directory into the sandbox: see :meth:`usernsctl.Sandbox.put`."""
    options = [*(["--merge"] if merge else []), *(["--parents"] if parents else [])]
    counts = _Counts()
    with _outside(tree), contextlib.closing(trees.walk_tree(tree, records.DEPTH_MAX)) as entries:
        # Open the tree before the copying program is started, so that an unreadable tree changes
        # nothing in the sandbox.
        first = next(entries)
        with (
            _Copy(place, "put", path, *options) as copy,
            copy.sending(Record(records.DONE)) as writer,
        ):
            for entry in chain([first], entries):
                try:
                    _send_entry(writer, entry, counts)
                except OSError as error:
                    path = os.fsdecode(entry.path)
                    where = os.path.join(tree, path) if path else tree
                    raise _outside_error(error, where) from error
    return counts.report()


def _send_entry(writer: RecordWriter, entry: trees.TreeEntry, counts: _Counts) -> None:
    """Write the records for `entry` of the copied tree, and the content of a regular file.

    An entry that is not copied, such as a FIFO, is only recorded in `counts`.

    :raises OSError: the file on the host can't be read.
    """
    status = entry.status
    mode, mtime = status.st_mode, status.st_mtime_ns
    if entry.is_end:
        writer.write(Record(records.LEAVE))
    elif stat.S_ISDIR(mode) and entry.is_open:
        counts.directories += 1
        writer.write(Record(records.DIRECTORY, mode, entry.name, mtime_ns=mtime))
    elif entry.file is not None:
        counts.files += 1
        writer.write(Record(records.FILE, mode, entry.name, b"", status.st_size, mtime))
        _send_content(writer, entry, entry.file, counts)
        writer.write(Record(records.LEAVE))
    elif stat.S_ISLNK(mode):
        counts.links += 1
        writer.write(Record(records.LINK, mode, entry.name, entry.target, mtime_ns=mtime))
    else:
        counts.skip(entry.path, mode)


def _send_content(writer: RecordWriter, entry: trees.TreeEntry, file: int, counts: _Counts) -> None:
    """Send the content of a file on the host, up to the size that it had when it was opened."""
    most = entry.status.st_size or _SIZE_MAX
    sent = 0
    while sent < most and (part := writer.write_from(file, most - sent)):
        sent += part
    now = os.fstat(file)
    counts.bytes += sent
    if (now.st_size, now.st_mtime_ns) != (entry.status.st_size, entry.status.st_mtime_ns):
        counts.add_changed(entry.path)


# ---- from asyncio --------------------------------------------------------------------------------


async def call_in_thread(copy: Callable[[Stop], _T]) -> _T:
    """Call `copy` in another thread, and return its result.

    If this call is cancelled, the call stops the copy, and raises CancelledError once the thread is
    done.

    :param copy: a function that copies files, and stops when its argument, a :class:`Stop`, is set.
    :raises CancelledError: this call was cancelled.
    """
    stop = Stop()

    def work() -> _T:
        try:
            return copy(stop)
        finally:
            stop.close()

    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        task.add_done_callback(_ignore_result)
        await asyncio.wait([task])
        raise


def _ignore_result(task: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a cancelled call's task, so that asyncio does not log it."""
    if not task.cancelled():
        task.exception()
