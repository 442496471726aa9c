"""Processes that are known by more than their pid, which may be used again for another one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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

        :raises FileNotFoundError, ProcessLookupError: there is none.
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

        :raises LookupError, TypeError, ValueError: they are not there.
        """
        return cls(
            pid=int(state["pid"]),
            start_time=int(state["start_time"]),
            boot_id=str(state["boot_id"]),
            pid_namespace=int(state["pid_namespace"]),
        )

    def is_foreign(self) -> bool:
        """Whether its pid means nothing to this process, as in another container.

        It may run then. One of an earlier boot does not, wherever it was.
        """
        return self.boot_id == _boot_id() and self.pid_namespace != _pid_namespace()

    def is_alive(self, *, name: str | None = None) -> bool:
        """Whether it still runs; it must not be foreign.

        :param name: the name that it must have (PR_SET_NAME(2const)); any, if left out.
        """
        try:
            now, fields = _stat(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return (
            fields[0] not in "ZX"
            and self.start_time == int(fields[19])
            and self.boot_id == _boot_id()
            and name in (None, now)
        )

    def open(self, *, name: str | None = None) -> int | None:
        """A pidfd of it, close-on-exec and the caller's to close; ``None`` if it has ended."""
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        # The descriptor stays that of one process, so this tells which one it is of.
        if self.is_alive(name=name):
            return pidfd
        os.close(pidfd)
        return None


def collect(pidfd: int) -> int | None:
    """Wait for a process that has ended, if it happens to be a child of ours: its status.

    :returns: the exit status, 128+N after signal N; ``None`` if it is no child of ours.
    """
    try:
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return None
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status


def kill(pidfd: int) -> None:
    """Send SIGKILL to a process, which may have ended."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _stat(pid: int) -> tuple[str, list[str]]:
    """proc_pid_stat(5): field 2, which may hold blanks and parentheses, and those from 3 on."""
    before, _, after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")
    return before.partition("(")[2], after.split()
