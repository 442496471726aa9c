"""The process that holds a named namespace, and what is known of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usernsctl import _core
from usernsctl.errors import NamespaceError
from usernsctl.identity import ProcessIdentity, kill
from usernsctl.idmap import Extent
from usernsctl.namespace import Namespace
from usernsctl.waiting import wait_readable

STEP = "name"

_HOLDER_NAME = "usernsctl-hold"  # UN_HOLDER_NAME in csrc/hold.h
_OPEN_SECONDS = 2
_NAP_SECONDS = 0.0002


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNamespace:
    """What is known of a named namespace.

    :ivar pid: the process that holds it.
    :ivar start_time: when that process started, in clock ticks after boot (proc_pid_stat(5)).
    :ivar boot_id: the boot that `start_time` counts from.
    :ivar pid_namespace: the inode number of the PID namespace that `pid` is of.
    :ivar created: when it was made, in seconds since 1970.
    :ivar namespaces: the kinds that it has of its own, ``"user"`` among them.
    :ivar uid: its map of uids, and so `gid`.
    :ivar notice: what its maker was told, such as that it has one id only; mostly empty.
    """

    name: str
    pid: int
    start_time: int
    boot_id: str
    pid_namespace: int
    created: float
    namespaces: tuple[str, ...]
    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]
    notice: str

    def processes(self) -> int:
        """How many processes are in it, the holder left out."""
        count = 0
        try:
            inode = os.stat(f"/proc/{self.pid}/ns/user").st_ino
        except OSError:  # the holder has just ended, or just been told to stay
            return count
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and int(entry) != self.pid:
                with contextlib.suppress(OSError):
                    count += os.stat(f"/proc/{entry}/ns/user").st_ino == inode
        return count

    def open(self) -> Namespace:
        """Hold it by descriptors, from whatever process this is.

        :raises NamespaceError: it is gone.
        """
        self._wait_until_open()
        namespace = Namespace.from_pid(self.pid)
        if not self.is_alive():
            namespace.close()
            reason = f"namespace {self.name!r} is gone: its holder has ended"
            raise NamespaceError(reason, step=STEP, cause="target-gone")
        return namespace

    @classmethod
    def describe(cls, name: str, pid: int, fds: Sequence[int], notice: str) -> NamedNamespace:
        """Look at what a process holds.

        :param fds: descriptors of its namespaces, in the order of :data:`_core.NAMESPACE_FILES`.
        """
        directory = f"/proc/{pid}"
        identity = ProcessIdentity.of(pid)
        kinds = dict(zip(_core.ALL_NAMESPACES, _core.NAMESPACE_FILES, strict=True))
        return cls(
            name=name,
            pid=pid,
            start_time=identity.start_time,
            boot_id=identity.boot_id,
            pid_namespace=identity.pid_namespace,
            created=time.time(),
            namespaces=tuple(
                kind
                for (kind, file), fd in zip(kinds.items(), fds, strict=True)
                if not os.path.samestat(os.fstat(fd), os.stat(f"/proc/self/ns/{file}"))
            ),
            uid=_read_map(f"{directory}/uid_map"),
            gid=_read_map(f"{directory}/gid_map"),
            notice=notice,
        )

    @classmethod
    def from_json(cls, name: str, state: Mapping[str, Any]) -> NamedNamespace:
        """Read what :meth:`to_json` has made.

        :raises ArithmeticError, LookupError, TypeError, ValueError: it has not.
        """
        return cls(
            name=name,
            pid=int(state["pid"]),
            start_time=int(state["start_time"]),
            boot_id=str(state["boot_id"]),
            pid_namespace=int(state["pid_namespace"]),
            created=float(state["created"]),
            namespaces=tuple(state["namespaces"]),
            uid=tuple(Extent(*extent) for extent in state["uid"]),
            gid=tuple(Extent(*extent) for extent in state["gid"]),
            notice=str(state["notice"]),
        )

    def to_json(self) -> dict[str, Any]:
        """What is written down."""
        state = asdict(self)
        state["uid"] = [list(extent) for extent in self.uid]
        state["gid"] = [list(extent) for extent in self.gid]
        return state

    def _wait_until_open(self) -> None:
        """Wait until its namespaces can be opened, or it becomes clear that they can't.

        The holder allows it once it has been told to stay and has let go of all that it had, so
        that it has nothing left to tell us by.
        """
        deadline = time.monotonic() + _OPEN_SECONDS
        while not os.access(f"/proc/{self.pid}/ns/user", os.R_OK):
            if time.monotonic() > deadline or not self.is_alive():
                return
            time.sleep(_NAP_SECONDS)

    def is_foreign(self) -> bool:
        """Whether its holder can't be told from here, as from another container."""
        return self._identity().is_foreign()

    def is_alive(self) -> bool:
        """Whether its holder is the process that it was: a pid alone may have been used again.

        It must not be foreign. It has its name only since it was told to stay: one whose creator
        was killed has another one, and is about to end.
        """
        return self._identity().is_alive(name=_HOLDER_NAME)

    def kill(self) -> None:
        """End the holder, and wait for its end."""
        pidfd = self._identity().open(name=_HOLDER_NAME)
        if pidfd is not None:
            try:
                kill(pidfd)
                wait_readable(pidfd)
            finally:
                os.close(pidfd)

    def _identity(self) -> ProcessIdentity:
        return ProcessIdentity(
            pid=self.pid,
            start_time=self.start_time,
            boot_id=self.boot_id,
            pid_namespace=self.pid_namespace,
        )


def _read_map(path: str) -> tuple[Extent, ...]:
    lines = Path(path).read_text().splitlines()
    return tuple(Extent(*map(int, line.split())) for line in lines)
