"""Exceptions of usernsctl: a class for each kind of failure.

Each class is an :class:`OSError`, so ``except OSError`` keeps working in code that used
:mod:`subprocess` before. An exception contains the step, the errno, the cause and the remedy of the
failure. ``str(error)`` says what failed; a traceback shows the cause and the remedy as notes below
the message (:pep:`678`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from errno import EACCES as _EACCES
from errno import EDQUOT as _EDQUOT
from errno import EEXIST as _EEXIST
from errno import EFBIG as _EFBIG
from errno import EISDIR as _EISDIR
from errno import EMFILE as _EMFILE
from errno import ENOENT as _ENOENT
from errno import ENOSPC as _ENOSPC
from errno import ENOTDIR as _ENOTDIR
from errno import EPERM as _EPERM
from errno import ETIMEDOUT as _ETIMEDOUT

from usernsctl._lean import Any, Self
from usernsctl._text import shown, shown_lines

# The exit status for each failed step, the same as in un_exit_status() (csrc/base/error.c), which
# usernsctl-exec calls.
_EXIT_STATUS = {"lookup": 127, "exec": 126}

# The cause of each errno that has only one cause, whichever system call fails.
_ONLY_CAUSE = {_EFBIG: "file-size-limit", _EMFILE: "descriptor-limit"}


def cause_of_file_error(number: int | None) -> str | None:
    """Return the cause of an errno of an operation on a file, or ``None`` if it is unknown.

    The errno of other operations may have other causes: creating a namespace fails with ENOSPC if a
    limit of namespaces is reached.

    :meta private:
    """
    return "disk-full" if number in (_ENOSPC, _EDQUOT) else None


class UsernsError(OSError):
    """Base class of all failures of usernsctl.

    :ivar str reason: what failed and why, in one sentence without the step and the remedy.
    :ivar str step: the step that failed, such as ``"unshare"`` or ``"uid_map"``.
    :ivar int errno: the error number of the system call (errno(3)), or 0 if none failed.
    :ivar filename: the path that the failure is about, or ``None``.
    :ivar cause: the stable id of the cause, such as ``"multithreaded"``, or ``None`` if unknown;
        ``usernsctl explain ID`` describes it.
    :ivar remedy: the remedy, if possible a shell command, or ``None``.
    """

    def __init__(
        self,
        reason: str,
        *,
        step: str,
        errno: int = 0,
        filename: str | None = None,
        cause: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(errno, os.strerror(errno) if errno else reason)
        self.filename = filename
        self.reason = reason
        self.step = step
        self.cause: str | None = None
        self.remedy: str | None = None
        self.explain(cause=cause or self._only_cause(errno), remedy=remedy)

    @classmethod
    def _only_cause(cls, errno: int) -> str | None:
        """Return the id of the cause of `errno` if `errno` has only one cause."""
        return _ONLY_CAUSE.get(errno)

    @classmethod
    def from_os_error(
        cls,
        error: OSError,
        what: str,
        *,
        step: str,
        filename: str | None = None,
        cause: str | None = None,
    ) -> Self:
        """Return an exception of this class, or of a subclass, for `error`.

        :meta private:
        :param error: an error of a Python function. Python functions create no namespaces, so
            ENOSPC means a full filesystem.
        :param what: the subject of the failure, such as a path or a process.
        """
        number = error.errno or 0
        why = os.strerror(number) if number else str(error)
        cause = cause or cause_of_file_error(number)
        kind = cls.kind_for(number)
        return kind(f"{what}: {why}", step=step, errno=number, filename=filename, cause=cause)

    @classmethod
    def kind_for(cls, errno: int) -> type[Self]:
        """Return the subclass of this class for `errno`; this class if no subclass is for `errno`.

        :class:`OSError` chooses :class:`FileNotFoundError` for ENOENT in the same way.

        :meta private:
        """
        kind: Any = _KINDS.get((cls, errno), cls)
        found: type[Self] = kind
        return found

    @classmethod
    @contextlib.contextmanager
    def instead(cls, what: str, *, step: str) -> Iterator[None]:
        """Convert an :class:`OSError` that a ``with`` block raises to an exception of this class.

        :meta private:
        :param what: the subject of the failure, such as a path.
        :raises UsernsError: an :class:`OSError` was raised in the body of the ``with`` statement.
        """
        try:
            yield
        except UsernsError:
            raise
        except OSError as error:
            raise cls.from_os_error(error, what, step=step, filename=error.filename) from error

    def explain(self, *, cause: str | None = None, remedy: str | None = None) -> None:
        """Set the cause and the remedy unless they are set already, and add each as a note.

        :meta private:
        """
        if cause and not self.cause:
            self.cause = cause
            self.add_note(f"cause: {shown(cause)}")
        if remedy and not self.remedy:
            self.remedy = remedy
            self.add_note(f"remedy: {shown_lines(remedy)}")

    @property
    def exit_status(self) -> int:
        """The exit status of ``usernsctl run`` and ``usernsctl-exec`` for this error.

        It is 127 if the command does not exist, 126 if the command can't be executed, else 125.
        """
        return _EXIT_STATUS.get(self.step, 125)

    def __str__(self) -> str:
        """Return the step and the reason in one line, with control characters escaped."""
        return shown(f"{self.step}: {self.reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {
            "step": self.step,
            "errno": self.errno or 0,
            "filename": self.filename,
            "cause": self.cause,
            "remedy": self.remedy,
        }
        return (_rebuild, (type(self), self.reason, fields))


def _rebuild(kind: type[UsernsError], reason: str, fields: dict[str, Any]) -> UsernsError:
    return kind(reason, **fields)


class MapError(UsernsError, ValueError):
    """An id map is malformed, or the kernel would reject the map (EINVAL, user_namespaces(7))."""


class PlanError(UsernsError):
    """This user is not permitted to use the requested id map on this host.

    For example, /etc/subuid does not grant a range, or newuidmap is missing. Nothing was started.
    """


class NamespaceError(UsernsError):
    """A namespace could not be created, mapped, entered, set up or found.

    In most cases a system call failed. The command has not run.
    """


class CommandError(UsernsError):
    """A command could not be started, although its namespaces were set up.

    `filename` is the path of the command, or of its working directory.
    """


class CommandNotFoundError(CommandError, FileNotFoundError):
    """The command or its working directory does not exist (ENOENT)."""


class CommandNotADirectoryError(CommandError, NotADirectoryError):
    """The working directory, or a component of a path, is not a directory (ENOTDIR)."""


class CommandNotExecutableError(CommandError, PermissionError):
    """The command exists but can't be executed (EACCES, EPERM)."""


class UserUnknownError(CommandError):
    """The name of a command's user or group is not in the sandbox's /etc/passwd or /etc/group."""


class SandboxEndedError(CommandError):
    """A command could not be run because its sandbox has ended.

    The command is not at fault: another sandbox can run it. `cause` is the reason for the end of
    the sandbox, such as ``"out-of-memory"``, or ``None``.
    """


class BindError(UsernsError):
    """A bind mount or root filesystem of a sandbox is impossible or not allowed.

    `filename` is the path of the source, if the failure is about that path.
    """


class BindNotFoundError(BindError, FileNotFoundError):
    """The source of a bind mount, or the root filesystem, does not exist (ENOENT)."""


class BindNotADirectoryError(BindError, NotADirectoryError):
    """The root filesystem, or a component of a path, is not a directory (ENOTDIR)."""


class BindPermissionError(BindError, PermissionError):
    """The caller may not read a bind mount's source (EACCES), or other users may replace it."""


class HardeningError(UsernsError):
    """A requested restriction could not be applied."""


class BundleError(UsernsError, ValueError):
    """An OCI bundle is missing or malformed, or requests what rootless runsc does not support."""


class RunscError(UsernsError):
    """runsc is missing, is not usable, or failed."""


class LimitError(RunscError):
    """A sandbox was killed because it exceeded a limit, or because memory ran out.

    `cause` names the limit, such as ``"memory-limit"``, ``"pids-limit"``, ``"timeout"`` or
    ``"out-of-memory"``.

    :ivar limit: the value of the limit, in bytes, processes and threads, or seconds; ``None`` if it
        is unknown.
    :ivar used: how much of the resource was used, in the unit of `limit`; ``None`` if it is
        unknown.
    """

    limit: float | None = None
    used: float | None = None


class SandboxFileError(UsernsError):
    """A file could not be copied into or out of a sandbox.

    `step` is the side on which the copy failed, ``"inside"`` or ``"outside"`` of the sandbox;
    `filename` is the path on that side.
    """

    @classmethod
    def _only_cause(cls, errno: int) -> str | None:
        # EFBIG may come from a limit of the copy or of the sandbox.
        return None if errno == _EFBIG else super()._only_cause(errno)


class SandboxFileNotFoundError(SandboxFileError, FileNotFoundError):
    """The file, or the directory to create it in, does not exist (ENOENT)."""


class SandboxFileExistsError(SandboxFileError, FileExistsError):
    """The file or directory to create exists already (EEXIST)."""


class SandboxFilePermissionError(SandboxFileError, PermissionError):
    """The user inside, or the caller outside, may not read or create the file (EACCES, EPERM)."""


class SandboxFileNotADirectoryError(SandboxFileError, NotADirectoryError):
    """A component of the path, or the path to list, is not a directory (ENOTDIR)."""


class SandboxFileIsADirectoryError(SandboxFileError, IsADirectoryError):
    """The file to read or write is a directory (EISDIR)."""


class SandboxFileTooLargeError(SandboxFileError):
    """The file or tree exceeds a size limit of the copy or of the sandbox (EFBIG)."""


class SandboxFileTimeoutError(SandboxFileError, TimeoutError):
    """The copy did not finish before its deadline (ETIMEDOUT)."""


class PoolError(UsernsError):
    """A pool could not start a sandbox; `__cause__` is the reason."""


class PoolTimeoutError(PoolError, TimeoutError):
    """No sandbox of a pool became free before the deadline.

    `reason` describes the state of the pool, and the last failed start of a sandbox.
    """


_KINDS: dict[tuple[type[UsernsError], int], type[UsernsError]] = {
    (CommandError, _ENOENT): CommandNotFoundError,
    (CommandError, _ENOTDIR): CommandNotADirectoryError,
    (CommandError, _EACCES): CommandNotExecutableError,
    (CommandError, _EPERM): CommandNotExecutableError,
    (BindError, _ENOENT): BindNotFoundError,
    (BindError, _ENOTDIR): BindNotADirectoryError,
    (BindError, _EACCES): BindPermissionError,
    (BindError, _EPERM): BindPermissionError,
    (SandboxFileError, _ENOENT): SandboxFileNotFoundError,
    (SandboxFileError, _EEXIST): SandboxFileExistsError,
    (SandboxFileError, _EACCES): SandboxFilePermissionError,
    (SandboxFileError, _EPERM): SandboxFilePermissionError,
    (SandboxFileError, _ENOTDIR): SandboxFileNotADirectoryError,
    (SandboxFileError, _EISDIR): SandboxFileIsADirectoryError,
    (SandboxFileError, _EFBIG): SandboxFileTooLargeError,
    (SandboxFileError, _ETIMEDOUT): SandboxFileTimeoutError,
}
