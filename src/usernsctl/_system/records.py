"""Stores of records that outlive the process that made them, in directories of the user's own.

There is one for named namespaces, one for detached sandboxes and one for templates. A store is a
directory with an entry for each name: a directory NAME, with ``record.json`` in it. While an entry
is made it is called ``.NAME``; the rename to NAME is the last step, so that an entry with its name
is whole. Whoever makes, reads or removes an entry holds a lock on it (flock(2)), which the kernel
releases when that process ends: a ``.NAME`` without a lock was left by a process that was killed.

A record is never more than a hint, since other programs of the same user may have written it.
Whoever reads it checks what it says of a process (:mod:`usernsctl._system.processes`), and executes
nothing that it names. Every step goes from the descriptor of a directory to a name in it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, Self, TypeVar

from usernsctl._system.descriptors import Closing
from usernsctl._system.names import NAME, check_name
from usernsctl._system.paths import (
    UntrustedPathError,
    make_private,
    open_file,
    open_trusted,
    state_directory,
)
from usernsctl._system.processes import ForeignProcessError
from usernsctl._text import quoted
from usernsctl.errors import NamespaceError

#: What a record is called in the directory of its entry.
RECORD = "record.json"

# An entry that is being made, or was replaced or removed and is not gone yet.
_HIDDEN = re.compile(rf"\.(?P<name>{NAME})(?P<aside>~[0-9a-f]{{8}})?")

# How often to try again where another process has removed or renamed an entry meanwhile.
_ATTEMPTS = 100

# How long to wait for a lock. Others hold it for milliseconds, but there may be many of them.
_LOCK_SECONDS = 10.0
_LOCK_PAUSE_SECONDS = 0.02

# A record has some hundred bytes, but a command may have many words, and runsc puts its environment
# into a file of its own, which is read here too.
_RECORD_MAX = 4 << 20

_STEP = "state"
_CAUSE = "state-directory-unusable"
_ELSEWHERE = "set XDG_RUNTIME_DIR to a directory that is yours"

# These errors are no fault of the directory: this process or the machine has run out of something.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# open(2) fails with these where a file is of another kind than expected.
_OF_ANOTHER_KIND = (errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)

#: The errors of code that reads JSON without checking each type before.
NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fault_of(status: os.stat_result, forbidden: int) -> str | None:
    """Return why others than the user could have changed a file; ``None`` if they could not.

    :param forbidden: permissions that nobody but the user may have, as in a mode.
    """
    if status.st_uid != os.geteuid():
        return f"it belongs to uid {status.st_uid}, not to {os.geteuid()}"
    if status.st_mode & forbidden:
        return f"it is open to others (mode {stat.S_IMODE(status.st_mode):o})"
    return None


class Directory(Closing):
    """A directory of the user's own.

    :ivar fd: its descriptor; -1 once it is closed.
    :ivar path: its path, for messages.
    """

    def __init__(
        self, fd: int, path: str, *, forbidden: int = 0o022, elsewhere: str = _ELSEWHERE
    ) -> None:
        """Take over a descriptor.

        :param forbidden: permissions that nobody but the user may have, as in a mode.
        :param elsewhere: the remedy for most failures.
        :raises UntrustedPathError: the directory is not the user's, or gives such a permission.
        """
        self.fd: int = fd
        self.path: str = path
        self.elsewhere: str = elsewhere
        fault = fault_of(os.fstat(fd), forbidden)
        if fault is not None:
            self.close()
            remedy = f"chmod 700 {quoted(path)}"
            raise UntrustedPathError(path, f"must be closed to others: {fault}", remedy)

    @classmethod
    def open_trusted(cls, path: str, *, make: bool = False, elsewhere: str = _ELSEWHERE) -> Self:
        """Open a directory that is closed to others, by a path that nobody else can redirect.

        :param path: an absolute path.
        :param make: whether to make the directory, in one that exists, if it is missing.
        :param elsewhere: the remedy for most failures below.
        :raises UntrustedPathError: others may use the directory, or replace one on the way.
        :raises OSError: the directory does not exist, or can't be opened or made.
        """
        parent = open_trusted(os.path.dirname(path))
        try:
            name = os.path.basename(path)
            if make:
                make_private(name, parent, exist_ok=True)
            # No other user can reach what is below then.
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            return cls(fd, path, forbidden=0o077, elsewhere=elsewhere)
        finally:
            os.close(parent)

    def open(self, name: str) -> Directory:
        """Open a directory in this one.

        :raises FileNotFoundError: there is none.
        :raises NamespaceError: NAME is no directory of the user's own, or can't be opened.
        """
        path = f"{self.path}/{name}"
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=self.fd)
            return Directory(fd, path, elsewhere=self.elsewhere)
        except FileNotFoundError:
            raise
        except UntrustedPathError as error:
            raise _untrusted(path, error) from None
        except OSError as error:
            raise _unusable(path, error, self.elsewhere) from error

    def make(self, name: str, *, exist_ok: bool = False) -> Directory:
        """Make a directory in this one, and open it.

        :raises FileNotFoundError: another process has removed it meanwhile.
        :raises NamespaceError: the directory can't be made or opened.
        """
        try:
            make_private(name, self.fd, exist_ok=exist_ok)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(f"{self.path}/{name}", error, self.elsewhere) from error
        return self.open(name)

    def has(self, name: str, directory: Directory) -> bool:
        """Return whether `name` in this directory leads to `directory`."""
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(directory.fd))

    def lock(self, seconds: float | None = None) -> bool:
        """Lock the directory for this process, and for those that inherit the descriptor.

        :param seconds: how long to wait while another process has the lock; by default 10.
        :returns: whether this process has the lock now.
        """
        deadline = time.monotonic() + (_LOCK_SECONDS if seconds is None else seconds)
        pause = _LOCK_PAUSE_SECONDS / 16
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            time.sleep(pause)
            pause = min(pause * 2, _LOCK_PAUSE_SECONDS)

    def unlock(self) -> None:
        """Release the lock, which closing would leave to a fork of this process."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def names(self, rule: re.Pattern[str] | str = NAME) -> list[str]:
        """Return the names in the directory that match `rule`, sorted."""
        with wrap_os_errors(self.path, self.elsewhere):
            return sorted(name for name in os.listdir(self.fd) if re.fullmatch(rule, name))

    def read(self, name: str) -> Any:
        """Return what a JSON file has; ``None`` if there is no such file.

        :raises ValueError: the file has no JSON, or ``null``.
        :raises NamespaceError: the file can't be read, or others may have written it.
        """
        path = f"{self.path}/{name}"
        # Whatever was put there, to open it must neither wait nor lead elsewhere.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with wrap_os_errors(path, self.elsewhere):
            try:
                opened = open_file(os.open(name, flags, dir_fd=self.fd))
            except FileNotFoundError:
                return None
            with opened as file:
                status = os.fstat(file.fileno())
                is_regular = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                if not is_regular or fault_of(status, 0o022) is not None:
                    raise invalid_record(path, "it is no file that only you have written")
                content = file.read(_RECORD_MAX + 1)
        if len(content) > _RECORD_MAX:
            raise invalid_record(path, f"it has more than {_RECORD_MAX} bytes")
        try:
            record = json.loads(content)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if record is None:
            raise ValueError("it says nothing")
        return record

    def write(self, name: str, record: Any) -> None:
        """Write a JSON file that does not exist yet.

        :raises NamespaceError: the file can't be written, or would be too large for :meth:`read`.
        """
        path = f"{self.path}/{name}"
        content = json.dumps(record)
        if len(content) > _RECORD_MAX:
            raise NamespaceError(
                f"{path} would have {len(content)} bytes, and may have {_RECORD_MAX}",
                step=_STEP,
                filename=path,
                remedy="let the command have fewer or shorter words and variables",
            )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with (
            wrap_os_errors(path, self.elsewhere),
            open(os.open(name, flags, 0o600, dir_fd=self.fd), "w", encoding="utf-8") as file,
        ):
            try:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
            except BaseException:
                os.unlink(name, dir_fd=self.fd)
                raise

    def remove(self, name: str, directory: Directory) -> None:
        """Remove the entry `directory`, unless another one is called `name` by now.

        :raises NamespaceError: something in it can't be removed.
        """
        with wrap_os_errors(directory.path, self.elsewhere), contextlib.suppress(FileNotFoundError):
            if self.has(name, directory):
                # First: an entry without its record is never restored.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(RECORD, dir_fd=directory.fd)
                shutil.rmtree(name, dir_fd=self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class Record(Protocol):
    """The methods of a record that a store calls."""

    @classmethod
    def read(cls, name: str, directory: Directory) -> Self:
        """Read the record in the directory of the entry `name`.

        :raises Exception: there is none, or it makes no sense: one of :data:`NONSENSE`.
        """

    def to_json(self) -> Mapping[str, Any]:
        """Return what is written into the file."""

    def is_alive(self) -> bool:
        """Return whether what the record stands for is there, or may be.

        :raises ForeignProcessError: the record names a process of another kind.
        """

    def discard(self) -> None:
        """End what is left of what the record stands for."""


R = TypeVar("R", bound=Record)


class TakenError(Exception):
    """An entry has the name already."""


class Entry(Closing, Generic[R]):
    """The directory of one record, held by a descriptor and, at first, locked.

    :ivar name: what the directory is called.
    :ivar directory: its descriptor and path.
    :ivar record: the record, once it was read; of a draft, what is to be written.
    """

    record: R

    def __init__(self, parent: Directory, name: str, directory: Directory) -> None:
        self.name: str = name
        self.directory: Directory = directory
        self._parent = parent

    @property
    def path(self) -> str:
        """The path of the directory, in one that nobody else may write to."""
        return f"{self._parent.path}/{self.name}"

    @property
    def fd(self) -> int:
        """The descriptor of the directory; -1 once it is closed."""
        return self.directory.fd

    def lock(self) -> bool:
        """Lock the entry again, as :meth:`Directory.lock` does."""
        return self.directory.lock()

    def unlock(self) -> None:
        """Let others lock the entry."""
        self.directory.unlock()

    def publish(self) -> None:
        """Write the record, and let others find the entry.

        :raises NamespaceError: the file can't be written; the disk is full, for example.
        """
        self.directory.write(RECORD, self.record.to_json())
        self.rename(self.name.removeprefix("."))

    def rename(self, name: str) -> None:
        """Give the directory a name that no entry has.

        :raises NamespaceError: an entry has it.
        """
        with wrap_os_errors(f"{self._parent.path}/{name}", self._parent.elsewhere):
            os.rename(self.name, name, src_dir_fd=self._parent.fd, dst_dir_fd=self._parent.fd)
        self.name = name

    def set_aside(self) -> None:
        """Hide the entry, so that others find the whole of it or nothing; the exit removes it."""
        self.rename(f".{self.name}~{os.urandom(4).hex()}")

    def remove(self) -> None:
        """Remove the directory, unless another one has its name by now.

        :raises NamespaceError: it can't be removed.
        """
        self._parent.remove(self.name, self.directory)

    def close(self) -> None:
        """Close the descriptors, which may leave the lock to a fork of this process."""
        self.directory.close()
        self._parent.close()

    def __exit__(self, *_: object) -> None:
        """Unlock and close the entry, and remove it if it is a draft or was set aside."""
        with contextlib.closing(self):
            try:
                if self.name.startswith("."):
                    self.remove()
            finally:
                self.unlock()


class Store(Generic[R]):
    """All entries of one kind."""

    def __init__(
        self, what: str, kind: type[R], open_directory: Callable[[bool], Directory]
    ) -> None:
        """Open nothing yet.

        :param what: a name in there is, such as ``"the name of a namespace"``.
        :param kind: reads records.
        :param open_directory: opens the directory, and makes it first if its argument is true.
        """
        self._what = what
        self._kind = kind
        self._open_directory = open_directory

    def check_name(self, name: str) -> str:
        """Check a name as :func:`check_name` does."""
        return check_name(name, self._what)

    def find(self, name: str) -> Entry[R] | None:
        """Return the entry `name`, locked, for the caller to close; ``None`` if it is not alive.

        What an entry that is not alive has left is removed.

        :raises InvalidNameError: `name` can't be a name.
        :raises NamespaceError: the directory can't be used, the record is not true, or another
            process has the lock for more than 10 seconds.
        """
        self.check_name(name)
        for _ in range(_ATTEMPTS):
            try:
                entry = self._lock(name)
            except FileNotFoundError:
                return None
            if entry is not None:
                try:
                    return self._live(entry)
                except ForeignProcessError as error:
                    raise invalid_record(entry.path, error.reason) from None
        raise self._unsteady(name)

    def list_records(self) -> list[R]:
        """Return the records that are alive, by name; remove what others have left.

        Busy entries are left out (:class:`BusyError`), and those whose record is not true.

        :raises NamespaceError: the directory can't be used.
        """
        self.sweep()
        found: list[R] = []
        deadline = time.monotonic() + _LOCK_SECONDS
        with self._open_directory(False) as top:
            names = top.names()
        for name in names:
            with contextlib.suppress(FileNotFoundError, ForeignProcessError, BusyError):
                entry = self._lock(name, max(deadline - time.monotonic(), 0))
                if entry is not None and self._live(entry) is not None:
                    with entry:
                        found.append(entry.record)
        return found

    def draft(self, name: str, *, replace: bool = False) -> Entry[R]:
        """Make an entry that nobody finds before it is published.

        :param replace: whether another one may have the name.
        :returns: the entry, empty and locked, for the caller to close: see :meth:`Entry.close`.
        :raises TakenError: an entry that is alive has the name.
        :raises InvalidNameError: `name` can't be a name.
        :raises NamespaceError: as :meth:`find` does.
        """
        self.sweep()
        for _ in range(_ATTEMPTS):
            self._check_free(name, replace)
            with contextlib.suppress(FileNotFoundError):
                entry = self._lock(f".{name}", make=True)
                if entry is not None:
                    with contextlib.ExitStack() as undo:
                        undo.enter_context(entry)
                        # The process that had the lock before may have published its own.
                        self._check_free(name, replace)
                        if not os.listdir(entry.fd):
                            undo.pop_all()
                            return entry
        raise self._unsteady(name)

    def replace(self, entry: Entry[R]) -> None:
        """Let others find a draft, in place of the entry that has the name.

        :raises NamespaceError: the directory can't be used.
        """
        name = entry.name.removeprefix(".")
        old = self.find(name)
        if old is None:
            entry.rename(name)
            return
        with old:
            try:
                old.set_aside()
                entry.rename(name)
            except BaseException:
                # That fails if the draft has the name already.
                with contextlib.suppress(NamespaceError):
                    old.rename(name)
                raise

    def sweep(self) -> None:
        """Remove what processes that were killed have left.

        An entry that was set aside is restored, if its place was not taken.

        :raises NamespaceError: the directory can't be used.
        """
        with contextlib.suppress(FileNotFoundError), self._open_directory(False) as top:
            for name in top.names(_HIDDEN):
                # What else has such a name is not of our making.
                with (
                    contextlib.suppress(FileNotFoundError, NamespaceError),
                    top.open(name) as directory,
                ):
                    _sweep_one(top, name, directory)

    def _check_free(self, name: str, replace: bool) -> None:
        found = self.find(name)
        if found is not None:
            with found:
                if not replace:
                    raise TakenError

    def _live(self, entry: Entry[R]) -> Entry[R] | None:
        """Read the record. If it is not alive, end and remove what is left, and close the entry."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(entry)
            # Another program has written a record that makes no sense, or has removed it.
            with contextlib.suppress(*NONSENSE):
                entry.record = self._kind.read(entry.name, entry.directory)
                if entry.record.is_alive():
                    undo.pop_all()
                    return entry
                entry.record.discard()
            entry.remove()
        return None

    def _lock(
        self, name: str, seconds: float | None = None, *, make: bool = False
    ) -> Entry[R] | None:
        """Open and lock an entry, for the caller to close.

        :returns: ``None`` if another process has removed or renamed it meanwhile.
        :raises FileNotFoundError: there is none.
        :raises BusyError: another process has the lock for too long.
        """
        with contextlib.ExitStack() as undo:
            parent = undo.enter_context(self._open_directory(make))
            directory = parent.make(name, exist_ok=True) if make else parent.open(name)
            undo.enter_context(directory)
            if not directory.lock(seconds):
                raise _locked(directory)
            if parent.has(name, directory):
                undo.pop_all()
                return Entry(parent, name, directory)
            directory.unlock()
        return None

    def _unsteady(self, name: str) -> NamespaceError:
        return NamespaceError(
            f"{name!r} can't be {self._what} now: other processes make and remove it all the time",
            step=_STEP,
            errno=errno.EAGAIN,
            remedy="try again",
        )


def _sweep_one(top: Directory, name: str, directory: Directory) -> None:
    """Remove or restore a hidden entry, unless a process that makes or removes it has the lock."""
    found = _HIDDEN.fullmatch(name)
    if found is None or not directory.lock(0):
        return
    try:
        if found["aside"] and RECORD in os.listdir(directory.fd):
            with contextlib.suppress(OSError):  # another entry has its place
                os.rename(name, found["name"], src_dir_fd=top.fd, dst_dir_fd=top.fd)
                return
        top.remove(name, directory)
    finally:
        directory.unlock()


def open_state(name: str) -> Directory:
    """Open a directory in the state directory; both are made if they are missing.

    :raises NamespaceError: they can't be made, or others could write there.
    """
    path = state_directory()
    try:
        with wrap_os_errors(path), Directory.open_trusted(path, make=True) as top:
            return top.make(name, exist_ok=True)
    except UntrustedPathError as error:
        raise _untrusted(path, error) from None


def _untrusted(path: str, error: UntrustedPathError) -> NamespaceError:
    return NamespaceError(
        f"{path} can't be trusted: {error.why(path)}",
        step=_STEP,
        cause=_CAUSE,
        remedy=f"{error.remedy}, or {_ELSEWHERE}" if error.remedy else _ELSEWHERE,
    )


class BusyError(NamespaceError):
    """Another process has an entry locked for too long, or its own processes do not end."""


def _locked(directory: Directory) -> BusyError:
    inode = os.fstat(directory.fd).st_ino
    return BusyError(
        f"{directory.path} is locked by another process, and has been for "
        f"{_LOCK_SECONDS:g} seconds",
        step=_STEP,
        errno=errno.EAGAIN,
        filename=directory.path,
        cause=_CAUSE,
        remedy=f"grep ':{inode} ' /proc/locks  # its 5th word is the process to end",
    )


@contextlib.contextmanager
def wrap_os_errors(path: str, elsewhere: str = _ELSEWHERE) -> Iterator[None]:
    """Raise the failures of system calls in a block as a NamespaceError about `path`.

    :param elsewhere: the remedy, unless the file is of another kind than expected.
    :raises NamespaceError: a system call failed.
    """
    try:
        yield
    except NamespaceError:
        raise
    except OSError as error:
        raise _unusable(path, error, elsewhere) from error


def _unusable(path: str, error: OSError, elsewhere: str) -> NamespaceError:
    number = error.errno or 0
    if number in _EXHAUSTED:
        return NamespaceError(
            f"the state directory could not be used: {os.strerror(number)}",
            step=_STEP,
            errno=number,
        )
    remedy = _removal(path) if number in _OF_ANOTHER_KIND else elsewhere
    if number == errno.ELOOP:
        number = errno.ENOTDIR  # O_NOFOLLOW: the file is a symbolic link
    return NamespaceError(
        f"{path}: {os.strerror(number)}",
        step=_STEP,
        errno=number,
        filename=path,
        cause=_CAUSE,
        remedy=remedy,
    )


def invalid_record(path: str, why: str) -> NamespaceError:
    """Return the error that usernsctl can't have written what a record says."""
    return NamespaceError(
        f"{path} is not believed: {why}",
        step=_STEP,
        filename=path,
        cause=_CAUSE,
        remedy=_removal(path),
    )


def _removal(path: str) -> str:
    return f"rm -r {quoted(path)}"
