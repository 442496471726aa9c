"""Process identities that stay unique when a pid is reused, and queries about processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

from usernsctl._core import Descriptor
from usernsctl._lean import Any, dataclass
from usernsctl._system.descriptors import wait_readable
from usernsctl.errors import NamespaceError

# The largest pid_max that the kernel accepts, PID_MAX_LIMIT (proc_sys_kernel(5)).
_PID_MAX = 1 << 22

_MOMENT_MAX = 1 << 40

# PF_EXITING (include/linux/sched.h), the flag of an exiting process in proc_pid_stat(5).
_PF_EXITING = 4

# Timeout of command_line_of(), in seconds.
_EXEC_SECONDS = 1
# Interval between the checks of command_line_of(), in seconds.
_LOOK_SECONDS = 0.001

# Request codes of ioctl_nsfs(2), which the standard library does not define.
_NS_GET_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessIdentity:
    """The identity of a process; no other process ever has the same identity.

    :ivar pid: the process id in `pid_namespace`.
    :ivar start_time: the start time of the process, in clock ticks after boot (proc_pid_stat(5)).
    :ivar boot_id: the id of the boot from which `start_time` counts.
    :ivar pid_namespace: the inode number of the PID namespace to which `pid` belongs.
    """

    pid: int
    start_time: int
    boot_id: str
    pid_namespace: int

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of a process, which may be a zombie.

        :raises FileNotFoundError: no process has that pid.
        :raises ProcessLookupError: the process exited during this call.
        """
        return cls(
            pid=pid,
            start_time=int(_stat(pid)[1][19]),
            boot_id=_boot_id(),
            pid_namespace=_pid_namespace(),
        )

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> ProcessIdentity:
        """Create an identity from the JSON object of a record.

        :raises LookupError: a field is missing.
        :raises TypeError: a field has another type.
        :raises ValueError: a field has an impossible value.
        """
        pid = int(state["pid"])
        if not 0 < pid <= _PID_MAX:
            raise ValueError(f"{pid} is not a process id")
        return cls(
            pid=pid,
            start_time=int(state["start_time"]),
            boot_id=str(state["boot_id"]),
            pid_namespace=int(state["pid_namespace"]),
        )

    def is_foreign(self) -> bool:
        """Return whether the pid belongs to another PID namespace, such as a container's.

        A foreign process may still run. Return false if the process was started before the last
        boot, because it has certainly exited.
        """
        return self.boot_id == _boot_id() and self.pid_namespace != _pid_namespace()

    def open(self, accept: Callable[[int], bool]) -> Descriptor | None:
        """Open a pidfd of the process, which must not be foreign.

        :param accept: a function that returns whether usernsctl may signal the process with a given
            pid. Another program may have written any pid into the record.
        :returns: the pidfd, close-on-exec; ``None`` if the process has exited.
        :raises ForeignProcessError: `accept` returned false.
        :raises NamespaceError: the pidfd can't be opened, for example for lack of descriptors.
        """
        pidfd = Descriptor()
        try:
            pidfd.open(os.pidfd_open, self.pid)
        except ProcessLookupError:
            return None
        except OSError as error:
            # EINVAL: the process has exited, and the pid is now the id of a thread (pidfd_open(2)).
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return None
            what = f"process {self.pid}"
            raise NamespaceError.from_os_error(error, what, step="state") from error
        # Check after `accept` that the process of the pidfd still runs. If it does, its pid was not
        # reused, so `accept` has checked this process.
        is_same = self.is_running()
        is_accepted = is_same and accept(self.pid)
        if not is_same or wait_readable(pidfd.number, timeout=0):
            return None
        if not is_accepted:
            # Close the descriptor now, because the traceback of the error keeps `pidfd` alive.
            pidfd.close()
            raise ForeignProcessError(
                f"process {self.pid} was not started by usernsctl",
                step="state",
                cause="state-directory-unusable",
            )
        return pidfd

    def is_running(self) -> bool:
        """Return whether the process still runs."""
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
    """Error for a record that names a process which usernsctl has not started."""


def name_of(pid: int) -> str | None:
    """Return the name of a process (PR_SET_NAME(2const)), or ``None`` if it has exited."""
    try:
        return _stat(pid)[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def command_line_of(pid: int) -> list[str] | None:
    """Return the command line of a process; ``None`` if the process has exited or is exiting.

    The command line in /proc is empty not only while a process exits, but also for a moment during
    execve(2). The function waits up to a second for the end of an execve(2).
    """
    deadline = time.monotonic() + _EXEC_SECONDS
    while True:
        try:
            argv = os.fsdecode(_read(f"/proc/{pid}/cmdline")).split("\0")[:-1]
        except (FileNotFoundError, ProcessLookupError):
            return None
        if argv or time.monotonic() >= deadline:
            return argv
        if _is_exiting(pid):
            return None
        time.sleep(_LOOK_SECONDS)


def _is_exiting(pid: int) -> bool:
    try:
        fields = _stat(pid)[1]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)


def children_of(pid: int) -> set[int]:
    """Return the pids of a single-threaded process's children, or an empty set if it has exited."""
    try:
        return {int(word) for word in _read(f"/proc/{pid}/task/{pid}/children").split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()


def parent_of(pid: int) -> int:
    """Return the pid of the parent of a process.

    :raises FileNotFoundError: no process has that pid.
    :raises ProcessLookupError: the process exited during this call.
    """
    return int(_stat(pid)[1][1])


def is_in_our_namespace(pid: int) -> bool:
    """Return whether a process is in a user namespace that belongs to this user.

    That is, in a child of the caller's user namespace, created by this user, or in a descendant of
    such a child.
    """
    namespace = Descriptor()
    try:
        ours = os.stat("/proc/self/ns/user")
        namespace.open(os.open, f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        while not os.path.samestat(os.fstat(namespace.number), ours):
            owner = owner_of(namespace.number)
            namespace = parent_namespace(namespace.number)
            if os.path.samestat(os.fstat(namespace.number), ours):
                return owner == os.geteuid()
    except OSError:
        pass
    finally:
        namespace.close()
    return False


def parent_namespace(fd: int) -> Descriptor:
    """Open the parent of a user namespace (NS_GET_PARENT of ioctl_nsfs(2)).

    :param fd: a descriptor of the user namespace.
    :returns: a descriptor of the parent namespace, close-on-exec.
    :raises PermissionError: the parent namespace is neither the caller's own user namespace nor a
        descendant of that namespace.
    """
    parent = Descriptor()
    parent.open(fcntl.ioctl, fd, _NS_GET_PARENT)
    return parent


def owner_of(fd: int) -> int:
    """Return the uid of the creator of a user namespace (NS_GET_OWNER_UID of ioctl_nsfs(2)).

    :param fd: a descriptor of the user namespace.
    """
    owner = bytearray(4)
    fcntl.ioctl(fd, _NS_GET_OWNER_UID, owner)
    return int.from_bytes(owner, sys.byteorder)


def exit_status(pidfd: int) -> int | None:
    """Return the exit status of a child that has exited, without reaping the child.

    :returns: the exit status, or 128+N if signal N killed the child; ``None`` if the process is not
        a child of the caller, or has not exited.
    """
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def reap(pidfd: int) -> None:
    """Reap a process that has exited, if it is a child of the caller."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


def kill(pidfd: int) -> None:
    """Send SIGKILL to a process, which may have exited already."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def parse_timestamp(written: Any) -> float:
    """Check a time from a record, and return it in seconds since 1970.

    :raises TypeError: the value is not a number.
    :raises ValueError: the number is out of range.
    """
    seconds = float(written)
    if not 0 <= seconds < _MOMENT_MAX:
        raise ValueError(f"the time {seconds} is out of range")
    return seconds


def _read(path: str) -> bytes:
    """Read a file in /proc.

    :raises FileNotFoundError: the process has exited.
    :raises ProcessLookupError: the process has exited.
    :raises NamespaceError: the file can't be read, for example for lack of descriptors.
    """
    try:
        with open(path, "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        raise
    except OSError as error:
        raise NamespaceError.from_os_error(error, path, step="state", filename=path) from error


def _boot_id() -> str:
    return _read("/proc/sys/kernel/random/boot_id").decode().strip()


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _stat(pid: int) -> tuple[str, list[str]]:
    """Parse proc_pid_stat(5); return the name of the process, and the fields from 3 on.

    The name may contain any characters.
    """
    before, _, after = os.fsdecode(_read(f"/proc/{pid}/stat")).rpartition(")")
    return before.partition("(")[2], after.split()
