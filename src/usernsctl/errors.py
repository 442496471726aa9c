"""The exceptions of usernsctl: one class for each family of failure.

Every one is an :class:`OSError`, so ``except OSError`` keeps working in code that called
:mod:`subprocess` before, and carries what a program needs to decide and what a person needs to
mend it. ``str(error)`` says what failed; a traceback shows the cause and the remedy below, as notes
(:pep:`678`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from errno import EACCES as _EACCES
from errno import EMFILE as _EMFILE
from errno import ENOENT as _ENOENT
from errno import ENOTDIR as _ENOTDIR
from errno import EPERM as _EPERM

from usernsctl._lean import Any, Self
from usernsctl._text import shown, shown_lines

# As un_exit_status() in csrc/base/error.c has it for the prelude.
_EXIT_STATUS = {"lookup": 127, "exec": 126}

# Of these, there is one cause, wherever they come up.
_ONLY_CAUSE = {_EMFILE: "descriptor-limit"}


class UsernsError(OSError):
    """Something that usernsctl was asked to do failed.

    :ivar reason: what failed and why, one sentence, without the step or the remedy.
    :ivar step: the point of the set-up that failed, such as ``"unshare"`` or ``"uid_map"``.
    :ivar errno: the kernel's error number, or 0 where no system call failed.
    :ivar filename: the path concerned, or ``None``.
    :ivar cause: the stable id of the cause, such as ``"multithreaded"``, or ``None`` if unknown.
    :ivar remedy: what mends it (a command, where there is one), or ``None``.
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
        self.explain(cause=cause or _ONLY_CAUSE.get(errno), remedy=remedy)

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
        """The same failure, told as one of this family.

        :meta private:
        :param what: what it is about, such as a path or a process.
        """
        number = error.errno or 0
        why = os.strerror(number) if number else str(error)
        kind = cls.kind_for(number)
        return kind(f"{what}: {why}", step=step, errno=number, filename=filename, cause=cause)

    @classmethod
    def kind_for(cls, errno: int) -> type[Self]:
        """Return the class for a failure of this family: that which `errno` is a built-in one of.

        As :class:`OSError` chooses :class:`FileNotFoundError` for ENOENT.

        :meta private:
        """
        kind: Any = _KINDS.get((cls, errno), cls)
        found: type[Self] = kind
        return found

    @classmethod
    @contextlib.contextmanager
    def instead(cls, what: str, *, step: str) -> Iterator[None]:
        """Have the failures of system calls in a block be told as ones of this family.

        :meta private:
        :param what: what they are about.
        :raises UsernsError: there was one.
        """
        try:
            yield
        except UsernsError:
            raise
        except OSError as error:
            raise cls.from_os_error(error, what, step=step, filename=error.filename) from error

    def explain(self, *, cause: str | None = None, remedy: str | None = None) -> None:
        """Set the cause and the remedy, as far as they are not known yet, and note them.

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
        """What our commands end with: 127, there is no command; 126, it can't be executed; 125."""
        return _EXIT_STATUS.get(self.step, 125)

    def __str__(self) -> str:
        """The step and the reason in one line; what others have put into it is escaped."""
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
    """An id map is malformed, or one that the kernel would refuse (EINVAL, user_namespaces(7))."""


class PlanError(UsernsError):
    """The map that was asked for can't be had by this user on this machine.

    Such as a range that /etc/subuid does not grant, or newuidmap missing. Nothing was started.
    """


class NamespaceError(UsernsError):
    """A namespace could not be made, mapped, entered, set up or found.

    Mostly the kernel refused it. Nothing of the command has run.
    """


class CommandError(UsernsError):
    """The namespace was ready, but the command could not be started in it.

    `filename` is the command, or the directory that it was to start in.
    """


class CommandNotFoundError(CommandError, FileNotFoundError):
    """The command, or the directory that it was to start in, does not exist (ENOENT)."""


class CommandNotADirectoryError(CommandError, NotADirectoryError):
    """What should be a directory is none (ENOTDIR): the working directory, or one on the way."""


class CommandNotExecutableError(CommandError, PermissionError):
    """The command exists but can't be executed (EACCES, EPERM)."""


class BindError(UsernsError):
    """A file or root filesystem of this machine can't be shown in a sandbox, or may not be.

    `filename` is its path, where that is to blame.
    """


class BindNotFoundError(BindError, FileNotFoundError):
    """The file or root filesystem to be shown does not exist (ENOENT)."""


class BindNotADirectoryError(BindError, NotADirectoryError):
    """What should be a directory is none (ENOTDIR): the root filesystem, or one on the way."""


class BindPermissionError(BindError, PermissionError):
    """The caller may not reach what is to be shown (EACCES), or others could exchange it."""


class HardeningError(UsernsError):
    """A restriction that was asked for could not be applied."""


class BundleError(UsernsError, ValueError):
    """An OCI bundle is missing, malformed, or asks for what rootless runsc can't give."""


class RunscError(UsernsError):
    """runsc is missing, is of the wrong kind, or refused to work."""


class PoolError(UsernsError):
    """A pool has no sandbox to hand out, since none could be made; `__cause__` says why."""


class PoolTimeoutError(PoolError, TimeoutError):
    """A pool had no sandbox to hand out in time. The reason says what it had, and what failed."""


_KINDS: dict[tuple[type[UsernsError], int], type[UsernsError]] = {
    (CommandError, _ENOENT): CommandNotFoundError,
    (CommandError, _ENOTDIR): CommandNotADirectoryError,
    (CommandError, _EACCES): CommandNotExecutableError,
    (CommandError, _EPERM): CommandNotExecutableError,
    (BindError, _ENOENT): BindNotFoundError,
    (BindError, _ENOTDIR): BindNotADirectoryError,
    (BindError, _EACCES): BindPermissionError,
    (BindError, _EPERM): BindPermissionError,
}
