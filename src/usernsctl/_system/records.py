"""The directory for what outlives the process that made it: named namespaces, detached sandboxes.

Only the user can write there, and in no directory above it can anybody else replace it. All that is
done there is done by descriptors. Whoever reads or changes it holds a lock on it meanwhile.

What is written down is never more than a hint: whoever reads it checks what it says of a process
(:mod:`usernsctl._system.proc`), and executes nothing that it names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator

from usernsctl._lean import Any, Self
from usernsctl._system.descriptors import Closing
from usernsctl._system.paths import (
    UntrustedPathError,
    make_private,
    open_file,
    open_trusted,
    state_directory,
)
from usernsctl._text import quoted
from usernsctl.errors import NamespaceError

#: What may be a name there: of a namespace, or the id of a sandbox.
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}"
NAME_RULE = (
    "it must be 1 to 64 letters, digits, dots, dashes and underscores, "
    "the first a letter, a digit or an underscore"
)

# How long to wait for whoever holds a lock. Each does so for milliseconds, but there may be many.
_LOCK_SECONDS = 10.0
_LOOK_SECONDS = 0.02

# A record has some hundred bytes, but a command may have many words, and runsc writes down its
# environment, too.
_RECORD_MAX = 4 << 20

_STEP = "state"
_CAUSE = "state-directory-unusable"
_ELSEWHERE = "set XDG_RUNTIME_DIR to a directory that is yours"

# What says nothing about the directory, but that this process or the machine has run out of it.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# What is said of a file that is of another kind than the one that was meant to be opened.
_OF_ANOTHER_KIND = (errno.EISDIR, errno.ELOOP, errno.ENOTDIR, errno.ENXIO)


class Directory(Closing):
    """A directory of the user's own, held by a descriptor, `fd`.

    :ivar path: where it was found, for messages.
    """

    def __init__(self, fd: int, path: str, *, forbidden: int = 0o022) -> None:
        """Take over a descriptor.

        :param forbidden: what others must not be allowed, as in a mode.
        :raises NamespaceError: the directory is not the user's, or others are.
        """
        self.fd: int = fd
        self.path = path
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid() or mode & forbidden:
            self.close()
            raise NamespaceError(
                f"{path} must belong to uid {os.geteuid()} and be closed to others; it "
                f"belongs to uid {status.st_uid}, with mode {mode:o}",
                step=_STEP,
                cause=_CAUSE,
                remedy=f"chmod 700 {quoted(path)}, or {_ELSEWHERE}",
            )

    @classmethod
    def open_in(
        cls,
        parent: int,
        name: str,
        path: str,
        *,
        forbidden: int = 0o022,
        remedy: str = _ELSEWHERE,
    ) -> Self:
        """Open a directory in another one.

        :param remedy: what to do if it is something else.
        :raises FileNotFoundError: there is none.
        :raises NamespaceError: it is something else, or can't be trusted.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=parent)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _unusable(path, error, remedy) from error
        return cls(fd, path, forbidden=forbidden)

    def open(self, name: str) -> Directory:
        """Open a directory in this one; see :meth:`open_in`."""
        path = f"{self.path}/{name}"
        return Directory.open_in(self.fd, name, path, remedy=_removal(path))

    def make(self, name: str, *, exist_ok: bool = False) -> Directory:
        """Make a directory in this one, and open it.

        :raises NamespaceError: it can't be made.
        """
        with wrap_os_errors(f"{self.path}/{name}"):
            make_private(name, self.fd, exist_ok=exist_ok)
        return self.open(name)

    def lock(self, seconds: float | None = None) -> bool:
        """Lock it for this process, and those that it passes the descriptor on to.

        :param seconds: how long to wait for whoever has the lock; by default 10.
        :returns: whether it could be had.
        """
        deadline = time.monotonic() + (_LOCK_SECONDS if seconds is None else seconds)
        pause = _LOOK_SECONDS / 16
        while True:
            try:
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
            time.sleep(pause)
            pause = min(pause * 2, _LOOK_SECONDS)

    def unlock(self) -> None:
        # To close it would not do: a fork of this process may have the descriptor, too.
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def names(self, suffix: str = "") -> list[str]:
        """What is in it, by name; only what could be of our making.

        :param suffix: what files have behind their names; it is left out.
        """
        with wrap_os_errors(self.path):
            import re

            rule = f"({NAME}){re.escape(suffix)}"
            found = [re.fullmatch(rule, name) for name in os.listdir(self.fd)]
            return sorted(match[1] for match in found if match)

    def read(self, name: str) -> Any:
        """What a record says; ``None`` if there is none.

        :raises ValueError: it says nothing that makes sense.
        :raises NamespaceError: it is no file that only the user has written, or it can't be read.
        """
        path = f"{self.path}/{name}"
        # Whatever was put there, to open it must neither wait nor lead elsewhere.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        with wrap_os_errors(path, _removal(path)):
            try:
                opened = open_file(os.open(name, flags, dir_fd=self.fd))
            except FileNotFoundError:
                return None
            with opened as file:
                status = os.fstat(file.fileno())
                is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o022
                if not stat.S_ISREG(status.st_mode) or not is_ours or status.st_nlink != 1:
                    raise invalid_record(path, "it is no file that only you have written")
                content = file.read(_RECORD_MAX + 1)
        if len(content) > _RECORD_MAX:
            raise invalid_record(path, f"it has more than {_RECORD_MAX} bytes")
        import json

        try:
            record = json.loads(content)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        if record is None:
            raise ValueError("it says nothing")
        return record

    def write(self, name: str, record: Any) -> None:
        """Write a record that there must not be yet.

        :raises NamespaceError: it can't be written; there is no space, for example. Or it is larger
            than :meth:`read` reads.
        """
        import json

        content = json.dumps(record)
        if len(content) > _RECORD_MAX:
            raise NamespaceError(
                f"{self.path}/{name} would have {len(content)} bytes, and may have {_RECORD_MAX}",
                step=_STEP,
                filename=f"{self.path}/{name}",
                remedy="let the command have fewer or shorter words and variables",
            )
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with (
            wrap_os_errors(f"{self.path}/{name}"),
            open(os.open(name, flags, 0o600, dir_fd=self.fd), "w", encoding="utf-8") as file,
        ):
            try:
                os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
            except BaseException:
                os.unlink(name, dir_fd=self.fd)
                raise

    def remove(self, name: str) -> None:
        """Remove a record, if it is there."""
        with wrap_os_errors(f"{self.path}/{name}"), contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def remove_tree(self, directory: Directory, name: str) -> None:
        """Remove `directory` with all that is in it, if it is still what has that name here."""
        with wrap_os_errors(directory.path), contextlib.suppress(FileNotFoundError):
            now = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if os.path.samestat(now, os.fstat(directory.fd)):
                import shutil

                shutil.rmtree(name, dir_fd=self.fd)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@contextlib.contextmanager
def locked_directory() -> Iterator[Directory]:
    """The state directory, which nobody else of this user reads or changes meanwhile.

    :raises NamespaceError: it can't be made, somebody else could write there, or somebody else
        holds the lock.
    """
    with _open_state_directory() as directory:
        if not directory.lock():
            inode = os.fstat(directory.fd).st_ino
            raise NamespaceError(
                f"{directory.path} is locked by another process, and has been for "
                f"{_LOCK_SECONDS:g} seconds",
                step=_STEP,
                errno=errno.EAGAIN,
                filename=directory.path,
                cause=_CAUSE,
                remedy=f"grep ':{inode} ' /proc/locks  # its 5th word is the process to end",
            )
        try:
            yield directory
        finally:
            directory.unlock()


def _open_state_directory() -> Directory:
    path = state_directory()
    try:
        with wrap_os_errors(path):
            parent = open_trusted(os.path.dirname(path))
            try:
                make_private(os.path.basename(path), parent, exist_ok=True)
                # Those below are out of others' reach, too, then.
                name = os.path.basename(path)
                return Directory.open_in(parent, name, path, forbidden=0o077)
            finally:
                os.close(parent)
    except UntrustedPathError as error:
        remedy = (
            f"chmod go-w {quoted(error.directory)}, or {_ELSEWHERE}"
            if error.writable
            else _ELSEWHERE
        )
        raise NamespaceError(
            f"{path} can't be trusted: {error}", step=_STEP, cause=_CAUSE, remedy=remedy
        ) from None


@contextlib.contextmanager
def wrap_os_errors(path: str, remedy: str = _ELSEWHERE) -> Iterator[None]:
    """Have an :class:`OSError` say what it is about.

    :param remedy: what to do if it is of another kind than it should be.
    :raises NamespaceError: what it says.
    """
    try:
        yield
    except NamespaceError:
        raise
    except OSError as error:
        raise _unusable(path, error, remedy) from error


def _unusable(path: str, error: OSError, remedy: str) -> NamespaceError:
    """What to raise for a failure to read or write there."""
    number = error.errno or 0
    if number in _EXHAUSTED:
        return NamespaceError(
            f"the state directory could not be used: {os.strerror(number)}",
            step=_STEP,
            errno=number,
        )
    if number not in _OF_ANOTHER_KIND:
        remedy = _ELSEWHERE
    if number == errno.ELOOP:
        number = errno.ENOTDIR  # it is a link where none may be
    return NamespaceError(
        f"{path}: {os.strerror(number)}",
        step=_STEP,
        errno=number,
        filename=path,
        cause=_CAUSE,
        remedy=remedy,
    )


def invalid_record(path: str, why: str) -> NamespaceError:
    """What to raise for a record that nobody of us can have written."""
    return NamespaceError(
        f"{path} is not believed: {why}",
        step=_STEP,
        filename=path,
        cause=_CAUSE,
        remedy=_removal(path),
    )


def _removal(path: str) -> str:
    return f"rm -r {quoted(path)}"
