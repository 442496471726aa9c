"""Processes that are known by more than their pid, which may be used again for another one."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Mapping

from usernsctl._lean import Any, dataclass
from usernsctl._system.descriptors import wait_readable
from usernsctl.errors import NamespaceError

# PID_MAX_LIMIT of the kernel (proc_sys_kernel(5), pid_max).
_PID_MAX = 1 << 22

_MOMENT_MAX = 1 << 40

# ioctl_nsfs(2)
_NS_GET_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """Which process it is.

    :ivar pid: its process id, as this process sees it.
    :ivar start_time: when it started, in clock ticks after boot (proc_pid_stat(5)).
    :ivar boot_id: the boot that `start_time` counts from.
    :ivar pid_namespace: the inode number of the PID namespace that `pid` is of.
    """

    pid: int
    start_time: int
    boot_id: str
    pid_namespace: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Look at a process, which may be a zombie.

        :raises FileNotFoundError: there is none.
        :raises ProcessLookupError: it has ended meanwhile.
        """
        return cls(
            pid=pid,
            start_time=int(_stat(pid)[1][19]),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
        )

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> ProcessIdentity:
        """Read the fields of this class from what was written down.

        :raises LookupError: one is not there.
        :raises TypeError: one is of another type.
        :raises ValueError: one can't be what it should.
        """
        pid = int(state["pid"])
        if not 0 < pid <= _PID_MAX:
            raise ValueError(f"{pid} can't be a process id")
        return cls(
            pid=pid,
            start_time=int(state["start_time"]),
            boot_id=str(state["boot_id"]),
            pid_namespace=int(state["pid_namespace"]),
        )

    def is_foreign(self) -> bool:
        """Whether its pid means nothing to this process, as in another container.

        It may run then. One of an earlier boot does not, wherever it was.
        """
        return self.boot_id == _boot_id() and self.pid_namespace != _pid_namespace()

    def open(self, accept: Callable[[int], bool]) -> int | None:
        """A pidfd of it, close-on-exec and the caller's to close; ``None`` if it has ended.

        It must not be foreign.

        :param accept: looks at the process of a pid, and says whether it can be the one that is
            meant, and may be signalled: what was written down may be a lie.
        :raises Stranger: that is not so.
        """
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            # By now it is the id of a thread.
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return None
            raise
        try:
            # In this order: a process that has not ended after the look was the one looked at.
            is_same = self.is_running()
            is_accepted = is_same and accept(self.pid)
            if is_same and not wait_readable(pidfd, timeout=0):
                if not is_accepted:
                    raise ForeignProcessError(
                        f"process {self.pid} is none of ours",
                        step="state",
                        cause="state-directory-unusable",
                    )
                pidfd, found = -1, pidfd
                return found
            return None
        finally:
            if pidfd >= 0:
                os.close(pidfd)

    def is_running(self) -> bool:
        """Whether it has not ended."""
        try:
            fields = _stat(self.pid)[1]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return (
            fields[0] not in "ZX"
            and self.start_time == int(fields[19])
            and self.boot_id == _boot_id()
        )


class ForeignProcessError(NamespaceError):
    """A process is not what was written down of it."""


def name_of(pid: int) -> str | None:
    """The name of a process (PR_SET_NAME(2const)); ``None`` if it has ended."""
    try:
        return _stat(pid)[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def command_line_of(pid: int) -> list[str]:
    """The command line of a process; empty if it has ended."""
    try:
        return os.fsdecode(_read(f"/proc/{pid}/cmdline")).split("\0")[:-1]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_in_our_namespace(pid: int) -> bool:
    """Whether a process is in a user namespace that this user has made, below this process's own.

    So it is none of another user's, nor one of this user's that is in no namespace of ours.
    """
    ours = os.stat("/proc/self/ns/user")
    try:
        here = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while not os.path.samestat(os.fstat(here), ours):
            owner = owner_of(here)
            # EPERM if that is not below ours.
            above = parent_namespace(here)
            os.close(here)
            here = above
            if os.path.samestat(os.fstat(here), ours):
                return owner == os.geteuid()
    except OSError:
        pass
    finally:
        os.close(here)
    return False


def parent_namespace(fd: int) -> int:
    """Open the user namespace above the one that a descriptor refers to.

    :returns: a descriptor of its own, close-on-exec and the caller's to close (NS_GET_PARENT of
        ioctl_nsfs(2)).

    :raises PermissionError: that is not below the caller's.
    """
    return fcntl.ioctl(fd, _NS_GET_PARENT)


def owner_of(fd: int) -> int:
    """The uid of the maker of the user namespace that a descriptor refers to.

    It is the one that this process's namespace has for it (NS_GET_OWNER_UID of ioctl_nsfs(2)).
    """
    owner = bytearray(4)
    fcntl.ioctl(fd, _NS_GET_OWNER_UID, owner)
    return int.from_bytes(owner, sys.byteorder)


def exit_status(pidfd: int) -> int | None:
    """The exit status of a process that has ended, if it happens to be a child of ours.

    It stays to be learned by others, until :func:`collect` is called.

    :returns: the exit status, 128+N after signal N; ``None`` if it is no child of ours.
    """
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def reap(pidfd: int) -> None:
    """Wait for a process that has ended, if it happens to be a child of ours."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def kill(pidfd: int) -> None:
    """Send SIGKILL to a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def parse_timestamp(written: Any) -> float:
    """A moment that was written down, in seconds since 1970.

    :raises TypeError: it is no number.
    :raises ValueError: it can't be a moment.
    """
    seconds = float(written)
    if not 0 <= seconds < _MOMENT_MAX:
        raise ValueError(f"{seconds} can't be a moment")
    return seconds


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _stat(pid: int) -> tuple[str, list[str]]:
    """proc_pid_stat(5): field 2, which may hold blanks and parentheses, and those from 3 on."""
    before, _, after = os.fsdecode(_read(f"/proc/{pid}/stat")).rpartition(")")
    return before.partition("(")[2], after.split()
