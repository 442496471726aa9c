"""The exceptions of usernsctl: one class for each family of failure.

Every one is an :class:`OSError`, so ``except OSError`` keeps working in code that called
:mod:`subprocess` before, and carries what a program needs to decide and what a person needs to
mend it.
"""

from __future__ import annotations

import os
from errno import EMFILE as _EMFILE
from typing import Any

from usernsctl._text import shown

# As un_exit_status() in csrc/error.c has it for the prelude.
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
        self.cause = cause or _ONLY_CAUSE.get(errno)
        self.remedy = remedy

    @property
    def exit_status(self) -> int:
        """That of our commands: 127, there is no command; 126, it can't be executed; else 125."""
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
    """An id map is malformed, or one that the kernel would refuse."""


class PlanError(UsernsError):
    """The map that was asked for can't be had by this user on this machine."""


class NamespaceError(UsernsError):
    """The kernel refused to make, map, enter or set up a namespace."""


class CommandError(UsernsError):
    """The namespace was ready, but the command could not be started in it."""


class CommandNotFoundError(CommandError, FileNotFoundError):
    """The command does not exist."""


class CommandNotADirectoryError(CommandError, NotADirectoryError):
    """What should be a directory is none: the working directory, or one on the way to it."""


class CommandNotExecutableError(CommandError, PermissionError):
    """The command exists but can't be executed."""


class HardeningError(UsernsError):
    """A restriction that was asked for could not be applied."""


class BundleError(UsernsError, ValueError):
    """An OCI bundle is missing, malformed, or asks for what rootless runsc can't give."""


class RunscError(UsernsError):
    """runsc is missing, is of the wrong kind, or refused to work."""
