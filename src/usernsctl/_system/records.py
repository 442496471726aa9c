"""Stores of records that outlive the process that wrote them, in directories of this user.

Named namespaces, detached sandboxes and templates have stores. A store is a directory that
contains, for each entry, a directory NAME with a file ``record.json``. The directory of a new entry
is called ``.NAME`` until the entry is complete, and is renamed to NAME as the last step.

A process locks the entries that it creates and removes (flock(2)), and those whose records it
reads. Templates are read without a lock. The kernel releases the lock when the process exits, so a
killed process leaves a ``.NAME`` that is not locked.

A record is only a hint, because other programs of the same user may have written it. Readers check
the processes that a record names (:mod:`usernsctl._system.processes`), and execute no program that
a record names. Files are opened relative to the descriptor of their directory (openat(2)).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Protocol, Self, TypeVar

from usernsctl._system.descriptors import Closing
from usernsctl._system.paths import (
    NAME,
    OpenFile,
    UntrustedPathError,
    check_name,
    make_private,
    open_file,
    open_trusted,
    state_directory,
)
from usernsctl._system.processes import ForeignProcessError
from usernsctl._text import quoted
from usernsctl.errors import NamespaceError, cause_of_file_error

#: The name of the file in an entry's directory that contains the record.
RECORD = "record.json"

# Matches the names of the directories of hidden entries: .NAME for a new entry that is not complete
# yet, .NAME~ and 8 hexadecimal digits for an old entry that is about to be removed
# (Entry.set_aside()).
_HIDDEN = re.compile(rf"\.(?P<name>{NAME})(?P<aside>~[0-9a-f]{{8}})?")

# Maximum number of attempts to lock an entry that other processes keep removing or renaming.
_ATTEMPTS = 100

# Timeout for waiting for a lock, in seconds. Most processes hold a lock only for milliseconds, but
# many processes may wait for the same lock.
_LOCK_SECONDS = 10.0
# Maximum interval between two attempts to take a lock, in seconds.
_LOCK_PAUSE_SECONDS = 0.02

# Maximum size of a JSON file, in bytes. A record takes a few hundred bytes, but its command may
# have many arguments, and Directory.read() also reads runsc's state file, which contains the
# environment.
_RECORD_MAX = 4 << 20

_STEP = "state"
_CAUSE = "state-directory-unusable"
_ELSEWHERE = "set XDG_RUNTIME_DIR to a directory of your own"

# Errors due to limits of processes or lack of memory, for which another state directory is no
# remedy.
_EXHAUSTED = (errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Errors of open(2) for a file of an unexpected type.
_OF_ANOTHER_KIND = (errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)

#: The exceptions that a malformed record can raise in code that reads it without checking types.
NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def fault_of(status: os.stat_result, forbidden: int) -> str | None:
    """Return the reason why other users may have changed a file, or ``None``.

    :param forbidden: the mode bits that the file must not have.
    """
    if status.st_uid != os.geteuid():
        return f"the owner is uid {status.st_uid}, not {os.geteuid()}"
    if status.st_mode & forbidden:
        return f"other users have access (mode {stat.S_IMODE(status.st_mode):o})"
    return None


class Directory(OpenFile):
    """An open directory that belongs to this user.

    :ivar elsewhere: the remedy in most errors about the directory and its files, such as the advice
        to use another state directory.
    """

    elsewhere: str = _ELSEWHERE

    @classmethod
    def open_trusted(cls, path: str, *, make: bool = False, elsewhere: str = _ELSEWHERE) -> Self:
        """Open a private directory (chmod 700) by a path that no other user can redirect.

        :param path: an absolute path.
        :param make: whether to create the directory if it is missing. The parent directory must
            exist.
        :param elsewhere: the remedy in most errors about the directory and its files, such as the
            advice to use another state directory.
        :raises UntrustedPathError: other users may access the directory, or replace a directory on
            its path.
        :raises OSError: the directory does not exist, or can't be opened or created.
        """
        with open_trusted(os.path.dirname(path)) as parent:
            if make:
                make_private(os.path.basename(path), parent.fd, exist_ok=True)
            # Require a mode such as 0700, without permissions for group and others, so that no
            # other user can reach the files below this directory.
            return cls._open(path, parent.fd, forbidden=0o077, elsewhere=elsewhere)

    @classmethod
    def _open(cls, path: str, parent: int, *, forbidden: int, elsewhere: str) -> Self:
        """Open the directory at `path`.

        :param parent: a descriptor of the parent directory.
        :param forbidden: the mode bits that the directory must not have.
        :raises UntrustedPathError: the directory belongs to another user, or has a forbidden mode
            bit.
        :raises OSError: the directory does not exist, or can't be opened.
        """
        found = cls.own(path, os.open, os.path.basename(path), _DIRECTORY, dir_fd=parent)
        found.elsewhere = elsewhere
        status = os.fstat(found.fd)
        fault = fault_of(status, forbidden)
        if fault is not None:
            # Close the descriptor now, because the traceback of the error keeps its owner alive.
            found.close()
            remedy = f"chmod 700 {quoted(path)}" if status.st_uid == os.geteuid() else None
            raise UntrustedPathError(path, f"is not private: {fault}", remedy)
        return found

    def open(self, name: str) -> Directory:
        """Open a subdirectory.

        :raises FileNotFoundError: the directory does not exist.
        :raises NamespaceError: the file is not a directory of this user, or can't be opened.
        """
        path = f"{self.path}/{name}"
        try:
            return Directory._open(path, self.fd, forbidden=0o022, elsewhere=self.elsewhere)
        except FileNotFoundError:
            raise
        except UntrustedPathError as error:
            raise _untrusted(path, error) from None
        except OSError as error:
            raise _unusable(path, error, self.elsewhere) from error

    def make(self, name: str, *, exist_ok: bool = False) -> Directory:
        """Create a subdirectory, and open it.

        :raises FileNotFoundError: another process removed the subdirectory during this call.
        :raises NamespaceError: the subdirectory can't be created or opened.
        """
        try:
            make_private(name, self.fd, exist_ok=exist_ok)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(f"{self.path}/{name}", error, self.elsewhere) from error
        return self.open(name)

    def has(self, name: str, directory: Directory) -> bool:
        """Return whether the entry `name` of this directory is `directory`."""
        try:
            found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(directory.fd))

    def lock(self, seconds: float | None = None) -> bool:
        """Lock the directory for this process, and for children that inherit the descriptor.

        :param seconds: the timeout, in seconds, for waiting while another process holds the lock;
            by default 10.
        :returns: whether this process has acquired the lock.
        :raises NamespaceError: the filesystem, for example NFS, can't lock directories.
        """
        deadline = time.monotonic() + (_LOCK_SECONDS if seconds is None else seconds)
        pause = _LOCK_PAUSE_SECONDS / 16
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                pass
            except OSError as error:
                raise _unusable(self.path, error, self.elsewhere) from error
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 2, _LOCK_PAUSE_SECONDS)

    def unlock(self) -> None:
        """Release the lock. close(2) would keep it while a forked child has the descriptor."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def names(self, rule: re.Pattern[str] | str = NAME) -> list[str]:
        """Return the sorted names in the directory that match the regular expression `rule`."""
        with wrap_os_errors(self.path, self.elsewhere):
            return sorted(name for name in os.listdir(self.fd) if re.fullmatch(rule, name))

    def read(self, name: str) -> Any:
        """Read a JSON file; return ``None`` if the file does not exist.

        :raises ValueError: the content is not JSON, or is ``null``.
        :raises NamespaceError: the file can't be read, or other users may have written it.
        """
        path = f"{self.path}/{name}"
        # Neither block on a FIFO nor follow a symbolic link, because another program may have
        # created the file.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with wrap_os_errors(path, self.elsewhere):
            try:
                with open_file(name, flags, self.fd) as file:
                    status = os.fstat(file.fileno())
                    is_regular = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                    if not is_regular or fault_of(status, 0o022) is not None:
                        raise invalid_record(path, "other users may have written to the file")
                    content = file.read(_RECORD_MAX + 1)
            except FileNotFoundError:
                return None
        if len(content) > _RECORD_MAX:
            raise invalid_record(path, f"the file has more than {_RECORD_MAX} bytes")
        try:
            record = json.loads(content)
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
        if record is None:
            raise ValueError("the file is empty")
        return record

    def write(self, name: str, record: Any) -> None:
        """Create a JSON file, which must not exist yet.

        :raises NamespaceError: the file can't be written, or would be too large for :meth:`read`.
        """
        path = f"{self.path}/{name}"
        content = json.dumps(record)
        if len(content) > _RECORD_MAX:
            raise NamespaceError(
                f"{path} would have {len(content)} bytes; the limit is {_RECORD_MAX}",
                step=_STEP,
                filename=path,
                remedy="give the command fewer or shorter arguments and variables",
            )
        # Python runs no signal handler between os.open() and the creation of the file object, which
        # then owns the descriptor, because both run in C code.
        opener = functools.partial(os.open, mode=0o600, dir_fd=self.fd)
        with (
            wrap_os_errors(path, self.elsewhere),
            open(name, "x", encoding="utf-8", opener=opener) as file,
        ):
            try:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
            except BaseException:
                os.unlink(name, dir_fd=self.fd)
                raise

    def remove(self, name: str, directory: Directory) -> None:
        """Remove the entry `name` if it is still the directory `directory`.

        :raises NamespaceError: a file in the directory can't be removed.
        """
        with wrap_os_errors(directory.path, self.elsewhere), contextlib.suppress(FileNotFoundError):
            if self.has(name, directory):
                # Remove the record first, because sweep() restores an entry that still has a
                # record.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(RECORD, dir_fd=directory.fd)
                try:
                    # Try rmdir() first, because rmtree() needs a free descriptor.
                    os.rmdir(name, dir_fd=self.fd)
                except OSError:
                    shutil.rmtree(name, dir_fd=self.fd)


class Record(Protocol):
    """Protocol of the records in a store."""

    @classmethod
    def read(cls, name: str, directory: Directory) -> Self:
        """Read the record from the directory of the entry `name`.

        :raises Exception: the record is missing or malformed (an exception in :data:`NONSENSE`).
        """

    def to_json(self) -> Mapping[str, Any]:
        """Return the record as an object for the JSON file."""

    def is_alive(self) -> bool:
        """Return whether the namespace, sandbox or template of the record possibly still exists.

        :raises ForeignProcessError: the record names a process that usernsctl has not started.
        """

    def discard(self) -> None:
        """Kill the remaining processes of a namespace or sandbox that has ended."""


R = TypeVar("R", bound=Record)


class TakenError(Exception):
    """Error for creating an entry with the name of a live entry."""


class Entry(Closing, Generic[R]):
    """An open entry of a store, locked until :meth:`unlock`.

    :ivar name: the name of the entry's directory.
    :ivar directory: the entry's open directory.
    :ivar record: the record, which was read from the file or will be written by :meth:`publish`.
    """

    record: R

    def __init__(self, parent: Directory, name: str, directory: Directory) -> None:
        self.name: str = name
        self.directory: Directory = directory
        self._parent = parent

    @property
    def path(self) -> str:
        """The path of the entry's directory. No other user may write to the parent directory."""
        return f"{self._parent.path}/{self.name}"

    @property
    def fd(self) -> int:
        """The descriptor of the entry's directory; -1 once the descriptor is closed."""
        return self.directory.fd

    def lock(self) -> bool:
        """Lock the entry again; return whether that succeeded (see :meth:`Directory.lock`)."""
        return self.directory.lock()

    def unlock(self) -> None:
        """Release the lock of the entry."""
        self.directory.unlock()

    def publish(self) -> None:
        """Write the record, and rename the entry's directory from ``.NAME`` to NAME.

        :raises NamespaceError: the file can't be written, for example because the disk is full.
        """
        self.directory.write(RECORD, self.record.to_json())
        self.rename(self.name.removeprefix("."))

    def rename(self, name: str) -> None:
        """Rename the entry's directory.

        :raises NamespaceError: another entry has that name.
        """
        with wrap_os_errors(f"{self._parent.path}/{name}", self._parent.elsewhere):
            os.rename(self.name, name, src_dir_fd=self._parent.fd, dst_dir_fd=self._parent.fd)
        self.name = name

    def set_aside(self) -> None:
        """Rename the directory to a hidden name. :meth:`__exit__` then removes the entry."""
        self.rename(f".{self.name}~{os.urandom(4).hex()}")

    def remove(self) -> None:
        """Remove the entry's directory, unless another entry now has the name.

        :raises NamespaceError: the directory can't be removed.
        """
        self._parent.remove(self.name, self.directory)

    def close(self) -> None:
        """Close the descriptors. A forked child with copies of them keeps the entry locked."""
        self.directory.close()
        self._parent.close()

    def __exit__(self, *_: object) -> None:
        """Unlock and close the entry; remove it if its name begins with a dot.

        Such an entry is incomplete, or :meth:`set_aside` has renamed it. Does nothing to a closed
        entry.
        """
        if self.fd < 0:
            return
        with contextlib.closing(self):
            try:
                if self.name.startswith("."):
                    self.remove()
            finally:
                self.unlock()


class Store(Generic[R]):
    """The entries of one kind, such as named namespaces."""

    def __init__(
        self, what: str, kind: type[R], open_directory: Callable[[bool], Directory]
    ) -> None:
        """Create the object; the store's directory is opened later.

        :param what: the noun for a name in errors, such as ``"the name of a namespace"``.
        :param kind: the class of the records.
        :param open_directory: a function that opens the store's directory; if the argument is true,
            the function creates a missing directory.
        """
        self._what = what
        self._kind = kind
        self._open_directory = open_directory

    def check_name(self, name: str) -> str:
        """Return `name` if it is valid for an entry of this store; else raise InvalidNameError."""
        return check_name(name, self._what)

    def find(self, name: str) -> Entry[R] | None:
        """Return the locked entry `name`, which the caller must close, or ``None``.

        An entry is dead if its namespace, sandbox or template no longer exists. A dead entry is
        removed, its remaining processes are killed, and the result is ``None``.

        :raises InvalidNameError: `name` is not valid.
        :raises NamespaceError: the store's directory can't be used, the record names a process that
            usernsctl has not started, or another process holds the lock for more than 10 seconds.
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
        """Return the records of live entries, sorted by name; remove dead entries.

        The result omits busy entries (:class:`BusyError`), and entries whose records name a process
        that usernsctl has not started.

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
        """Create an entry that other processes can find only after :meth:`Entry.publish`.

        :param replace: whether to allow a live entry with the same name; :meth:`replace` must then
            replace that entry.
        :returns: the empty, locked entry, which the caller must close; see :meth:`Entry.close`.
        :raises TakenError: a live entry has the name, and `replace` is false.
        :raises InvalidNameError: `name` is not valid.
        :raises NamespaceError: as :meth:`find` does.
        """
        self.sweep()
        for _ in range(_ATTEMPTS):
            self._check_free(name, replace)
            with contextlib.suppress(FileNotFoundError):
                try:
                    entry = self._lock(f".{name}", make=True)
                except NamespaceError:
                    # If the directory was created but could not be opened, let sweep() remove it.
                    # sweep() keeps a directory that another process has locked.
                    with contextlib.suppress(NamespaceError):
                        self.sweep()
                    raise
                if entry is not None:
                    with contextlib.ExitStack() as undo:
                        undo.enter_context(entry)
                        # Check again, because the previous holder of the lock may have published an
                        # entry with this name.
                        self._check_free(name, replace)
                        if not entry.directory.names("(?s).*"):
                            undo.pop_all()
                            return entry
        raise self._unsteady(name)

    def replace(self, entry: Entry[R]) -> None:
        """Rename a complete entry from ``.NAME`` to NAME; remove the old entry NAME, if any.

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
                # Restore the old entry. The rename fails if `entry` has already taken its name.
                with contextlib.suppress(NamespaceError):
                    old.rename(name)
                raise

    def sweep(self) -> None:
        """Remove the hidden entries that processes have left behind because they were killed.

        An old entry that :meth:`Entry.set_aside` has renamed is restored instead, if it still has a
        record and no other entry has its name.

        :raises NamespaceError: the directory can't be used.
        """
        with contextlib.suppress(FileNotFoundError), self._open_directory(False) as top:
            for name in top.names(_HIDDEN):
                # Ignore files that no store has created: files that are not directories, or that
                # belong to other users.
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
        """Read the record of an entry. Return a live entry; remove and close a dead one."""
        with contextlib.ExitStack() as undo:
            undo.enter_context(entry)
            # Treat an invalid record as dead: another program may have removed the record, or
            # written a malformed record.
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
        """Open and lock an entry, which the caller must close.

        :returns: the entry; ``None`` if another process removed or renamed it during this call.
        :raises FileNotFoundError: the entry does not exist.
        :raises BusyError: another process holds the lock for more than `seconds`, by default 10.
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
            f"{name!r} can't be {self._what} now: other processes keep creating and removing it",
            step=_STEP,
            errno=errno.EAGAIN,
            remedy="try again",
        )


def _sweep_one(top: Directory, name: str, directory: Directory) -> None:
    """Remove or restore a hidden entry, unless another process still holds its lock."""
    found = _HIDDEN.fullmatch(name)
    if found is None or not directory.lock(0):
        return
    try:
        if found["aside"] and RECORD in os.listdir(directory.fd):
            with contextlib.suppress(OSError):  # rename(2) replaces no directory that has files.
                os.rename(name, found["name"], src_dir_fd=top.fd, dst_dir_fd=top.fd)
                return
        top.remove(name, directory)
    finally:
        directory.unlock()


def open_state(name: str) -> Directory:
    """Open a directory in the state directory; create both if they are missing.

    :raises NamespaceError: a directory can't be created, or other users could write to it.
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
        remedy=f"{error.remedy}    # or {_ELSEWHERE}" if error.remedy else _ELSEWHERE,
    )


class BusyError(NamespaceError):
    """Error for an entry that another process keeps locked, or whose processes survive SIGKILL."""


def _locked(directory: Directory) -> BusyError:
    inode = os.fstat(directory.fd).st_ino
    return BusyError(
        f"{directory.path} is locked by another process, and has been for "
        f"{_LOCK_SECONDS:g} seconds",
        step=_STEP,
        errno=errno.EAGAIN,
        filename=directory.path,
        cause=_CAUSE,
        remedy=f"grep ':{inode} ' /proc/locks  # the 5th field is the pid of the process to end",
    )


@contextlib.contextmanager
def wrap_os_errors(path: str, elsewhere: str = _ELSEWHERE) -> Iterator[None]:
    """Convert an OSError of a ``with`` block to a NamespaceError about `path`.

    :param elsewhere: the remedy in the error, such as the advice to use another state directory.
        Errors about a file of the wrong type contain another remedy, and errors due to a
        limit or lack of memory none.
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
    cause = cause_of_file_error(number)
    if cause:
        remedy = f"delete files there, or {elsewhere}"
    else:
        remedy = _removal(path) if number in _OF_ANOTHER_KIND else elsewhere
    if number == errno.ELOOP:
        # Report ENOTDIR: open(2) with O_NOFOLLOW fails with ELOOP if the file is a symbolic link.
        number = errno.ENOTDIR
    return NamespaceError(
        f"{path}: {os.strerror(number)}",
        step=_STEP,
        errno=number,
        filename=path,
        cause=cause or _CAUSE,
        remedy=remedy,
    )


def invalid_record(path: str, why: str) -> NamespaceError:
    """Return the exception for a malformed record, which a program other than usernsctl wrote.

    :param why: the reason, a sentence without a full stop.
    """
    return NamespaceError(
        f"{path} can't be trusted: {why}",
        step=_STEP,
        filename=path,
        cause=_CAUSE,
        remedy=_removal(path),
    )


def _removal(path: str) -> str:
    return f"rm -r {quoted(path)}"
