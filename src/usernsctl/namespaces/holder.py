"""The process that holds a named namespace, and what is known of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from usernsctl import _core
from usernsctl._records import dataclass
from usernsctl._system.descriptors import wait_readable
from usernsctl._system.proc import ProcessIdentity, is_below_us, kill, moment, name_of
from usernsctl.errors import NamespaceError
from usernsctl.maps import Extent, parse_map

STEP = "name"

_HOLDER_NAME = "usernsctl-hold"  # UN_HOLDER_NAME in csrc/programs/exec/hold.h
# Before it has that one: of the program.
_STARTING_NAME = "usernsctl-exec"
_OPEN_SECONDS = 2
_END_SECONDS = 10
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

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """For a block that looks at the holder's namespaces: its pid is nobody else's at the end.

        :raises NamespaceError: it is gone.
        :raises Stranger: it is not this user's.
        """
        with self._held_holder() as pidfd:
            if pidfd is not None:
                yield
                # Nobody else has its pid as long as it has not ended.
                if not wait_readable(pidfd, timeout=0):
                    return
        reason = f"namespace {self.name!r} is gone: its holder has ended"
        raise NamespaceError(reason, step=STEP, cause="target-gone")

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
            uid=read_map(f"{directory}/uid_map"),
            gid=read_map(f"{directory}/gid_map"),
            notice=notice,
        )

    @classmethod
    def from_json(cls, name: str, state: Mapping[str, Any]) -> NamedNamespace:
        """Read what :meth:`to_json` has made.

        :raises ArithmeticError: it has not.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        identity = ProcessIdentity.from_json(state)
        namespaces = tuple(state["namespaces"])
        if not set(namespaces) <= set(_core.ALL_NAMESPACES):
            raise ValueError("there are no such namespaces")
        return cls(
            name=name,
            pid=identity.pid,
            start_time=identity.start_time,
            boot_id=identity.boot_id,
            pid_namespace=identity.pid_namespace,
            created=moment(state["created"]),
            namespaces=namespaces,
            uid=tuple(Extent(*map(int, extent)) for extent in state["uid"]),
            gid=tuple(Extent(*map(int, extent)) for extent in state["gid"]),
            notice=str(state["notice"]),
        )

    def to_json(self) -> dict[str, Any]:
        """What is written down."""
        from dataclasses import asdict

        state = asdict(self)
        state["uid"] = [list(extent) for extent in self.uid]
        state["gid"] = [list(extent) for extent in self.gid]
        return state

    def is_foreign(self) -> bool:
        """Whether its holder can't be told from here, as from another container."""
        return self._identity().is_foreign()

    def is_alive(self) -> bool:
        """Whether its holder is the process that it was: a pid alone may have been used again.

        It must not be foreign. It has its name only since it was told to stay: one whose creator
        was killed has another one, and is about to end.

        :raises Stranger: there is such a process, but what it holds is not this user's.
        """
        with self._held_holder() as pidfd:
            return pidfd is not None

    def kill(self) -> None:
        """End the holder, and wait for its end.

        As process 1, it ends after all that is in its PID namespace. A file system that root inside
        has mounted, and that does not answer (FUSE), can keep a process there from its end.

        :raises NamespaceError: it takes too long.
        :raises Stranger: it is not this user's.
        """
        with self._held_holder() as pidfd:
            if pidfd is None:
                return
            kill(pidfd)
            if not wait_readable(pidfd, timeout=_END_SECONDS):
                reason = (
                    f"namespace {self.name!r}: its holder, process {self.pid}, was killed, and "
                )
                reason += f"has not ended after {_END_SECONDS} seconds"
                raise NamespaceError(reason, step=STEP)

    @contextlib.contextmanager
    def _held_holder(self) -> Iterator[int | None]:
        """A pidfd of the holder; ``None``: it has ended."""
        identity = self._identity()
        pidfd = identity.open(lambda _: _may_be_holder(identity))
        try:
            yield None if pidfd is None or _is_other(self.pid) else pidfd
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def _identity(self) -> ProcessIdentity:
        return ProcessIdentity(
            pid=self.pid,
            start_time=self.start_time,
            boot_id=self.boot_id,
            pid_namespace=self.pid_namespace,
        )


def _is_other(pid: int) -> bool:
    return name_of(pid) != _HOLDER_NAME


def _may_be_holder(process: ProcessIdentity) -> bool:
    """Whether a process is no holder yet, or any more, or one of this user's."""
    deadline = time.monotonic() + _OPEN_SECONDS
    while _is_becoming_holder(process.pid) and process.is_running():
        if time.monotonic() > deadline:
            return _is_other(process.pid)
        time.sleep(_NAP_SECONDS)
    return _is_other(process.pid) or is_below_us(process.pid)


def _is_becoming_holder(pid: int) -> bool:
    """Whether it will soon be seen what a process is.

    One whose creator was killed may have been told to stay, and not have heard that yet. A holder
    has its name a moment before it lets its namespaces be opened: not before it has let go of all
    that it had, so that it has nothing left to tell us by.
    """
    name = name_of(pid)
    if name == _HOLDER_NAME:
        return not os.access(f"/proc/{pid}/ns/user", os.R_OK)
    return name == _STARTING_NAME


def read_map(path: str) -> tuple[Extent, ...]:
    """The map that a file such as /proc/PID/uid_map has (user_namespaces(7)).

    :raises OSError: it can't be read.
    """
    return parse_map(Path(path).read_text())
