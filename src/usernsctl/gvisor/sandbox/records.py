"""Records of detached sandboxes: any process of the same user finds a sandbox by its id.

Each sandbox has an entry in a store (:mod:`usernsctl._system.records`), with runsc's own state in
it. The entry is locked while the sandbox is started or ended. A sandbox is believed to live as long
as its process is alive and is the same as when the record was written.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any

from usernsctl._lean import asdict, dataclass
from usernsctl._system.descriptors import wait_readable
from usernsctl._system.processes import (
    ProcessIdentity,
    command_line_of,
    is_in_our_namespace,
    kill,
    parse_timestamp,
    reap,
)
from usernsctl._system.records import (
    NONSENSE,
    RECORD,
    BusyError,
    Directory,
    Entry,
    Store,
    TakenError,
    invalid_record,
    open_state,
)
from usernsctl.errors import RunscError
from usernsctl.gvisor.agent.start import ProcessDefaults

#: The directory for runsc's state, in that of an entry.
STATE = "state"

# runsc has two processes that know of the sandbox; more for whatever a later release may add.
_PROCESSES_MAX = 8

_END_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachedRecord:
    """The record of a detached sandbox.

    :ivar id: the container id.
    :ivar args: the command and its arguments, empty if the bundle decides.
    :ivar created: the time of the start, in seconds since 1970.
    :ivar processes: the processes of runsc, the one that runs the command first.
    """

    id: str
    args: tuple[str, ...]
    created: float
    processes: tuple[ProcessIdentity, ...]

    @property
    def pid(self) -> int:
        """The process of runsc that the command runs in."""
        return self.processes[0].pid

    def is_foreign(self) -> bool:
        """Return whether the pids are those of another PID namespace, such as a container."""
        return self.processes[0].is_foreign()

    def open_processes(self) -> list[int | None]:
        """Return pidfds of :attr:`processes`, which the caller closes; ``None`` for ended ones.

        :meta private:
        :raises ForeignProcessError: a process does not belong to the sandbox.
        """
        opened: list[int | None] = []
        try:
            for one in self.processes:
                opened.append(one.open(self._is_ours))
        except BaseException:
            close_pidfds(opened)
            raise
        return opened

    def _is_ours(self, pid: int) -> bool:
        """Return whether a process is in a namespace of this user's making, and has the bundle."""
        words = command_line_of(pid)
        # A process without words is about to end.
        return is_in_our_namespace(pid) and (not words or _has_bundle(words, self.id))

    def is_alive(self) -> bool:
        """Return whether the sandbox lives, or may live, since it is foreign.

        :meta private:
        :raises ForeignProcessError: a process does not belong to the sandbox.
        """
        if self.is_foreign():
            return True
        opened = self.open_processes()
        close_pidfds(opened)
        return opened[0] is not None

    def discard(self) -> None:
        """End all processes of the sandbox.

        :meta private:
        :raises BusyError: a process does not end in time.
        :raises ForeignProcessError: a process does not belong to the sandbox.
        """
        opened = self.open_processes()
        try:
            end_processes(self.id, [pidfd for pidfd in opened if pidfd is not None])
        finally:
            close_pidfds(opened)

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads.

        :meta private:
        """
        return asdict(self)

    @classmethod
    def from_json(cls, id: str, state: Mapping[str, Any]) -> DetachedRecord:
        """Read what :meth:`to_json` returned.

        :meta private:
        :raises ValueError: the record makes no sense; also the others of ``NONSENSE``.
        """
        processes = tuple(map(ProcessIdentity.from_json, state["processes"]))
        if not 0 < len(processes) <= _PROCESSES_MAX:
            raise ValueError("there are no processes, or too many")
        return cls(
            id=id,
            args=tuple(map(str, state["args"])),
            created=parse_timestamp(state["created"]),
            processes=processes,
        )

    @classmethod
    def read(cls, name: str, directory: Directory) -> DetachedRecord:
        """Read the record in the directory of an entry.

        :meta private:
        """
        return cls.from_json(name, directory.read(RECORD))


_STORE = Store("the id of a sandbox", DetachedRecord, lambda _: open_state("sandboxes"))


def open_runsc_state(entry: Entry[DetachedRecord]) -> Directory:
    """Open the directory for runsc's state, for the caller to close.

    :raises NamespaceError: the directory does not exist, or can't be trusted.
    """
    try:
        return entry.directory.open(STATE)
    except FileNotFoundError as error:
        raise invalid_record(entry.path, f"it has no directory {STATE}") from error


def read_defaults(entry: Entry[DetachedRecord]) -> ProcessDefaults:
    """Read what all commands of a sandbox have in common, from runsc's own state.

    Our record has no copy: values of the environment may be secrets.

    :raises RunscError: runsc has written its state in an unknown way.
    """
    with contextlib.suppress(*NONSENSE), open_runsc_state(entry) as state:
        found = [name for name in os.listdir(state.fd) if name.endswith(".state")]
        if len(found) == 1:
            return ProcessDefaults.of_config(state.read(found[0])["spec"])
    raise RunscError(
        f"the environment of commands in the sandbox {entry.name} is unknown: "
        "runsc has written its state in another way",
        step="sandbox",
        remedy="start the sandbox anew",
    )


def draft_detached(id: str) -> Entry[DetachedRecord]:
    """Make the entry of a sandbox that is to be started, with a directory for runsc's state.

    :returns: the entry, locked, for the caller to close.
    :raises RunscError: the id is taken.
    :raises NamespaceError: the state directory can't be used.
    """
    try:
        entry = _STORE.draft(id)
    except TakenError:
        raise duplicate_id(id, "that is detached") from None
    with contextlib.ExitStack() as undo:
        undo.enter_context(entry)
        entry.directory.make(STATE).close()
        undo.pop_all()
    return entry


def find_detached(id: str) -> Entry[DetachedRecord]:
    """Find a detached sandbox. If it is just being ended, wait for that.

    :returns: its entry, locked, for the caller to close.
    :raises RunscError: no sandbox has the id, or it has ended: what it left is removed then.
    :raises NamespaceError: the state directory can't be used, or the record is not true.
    """
    entry = _STORE.find(id)
    if entry is not None and not entry.record.is_foreign():
        return entry
    where = ": it has ended, or there was none"
    if entry is not None:
        where = " here: it is in another PID namespace"
        with entry:
            pass
    raise RunscError(
        f"there is no detached sandbox {id!r}{where}",
        step="sandbox",
        cause="no-such-sandbox",
        remedy="usernsctl.Sandbox.list_detached() tells which there are",
    )


def list_detached() -> list[DetachedRecord]:
    """Return all detached sandboxes of this user, by id; remove what dead ones left.

    Sandboxes that are just being started or ended, those in another PID namespace, and those whose
    record is not true are left out.

    :raises NamespaceError: the state directory can't be used.
    """
    return [one for one in _STORE.list_records() if not one.is_foreign()]


def describe_detached(id: str, args: tuple[str, ...], pid: int, starter: int) -> DetachedRecord:
    """Return the record of a sandbox that was just started.

    Processes that can't be recognised later are left out: runsc-fd-parking (since 20260831) has no
    words of the sandbox. It ends with the sandbox.

    :param pid: the process of the sandbox, a child of `starter` by now.
    """
    with open(f"/proc/{starter}/task/{starter}/children") as file:
        text = file.read()
    others = {int(word) for word in text.split()} - {pid}
    processes = [ProcessIdentity.of(pid)]
    for other in sorted(others):
        if _has_bundle(command_line_of(other), id):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                processes.append(ProcessIdentity.of(other))
    return DetachedRecord(id=id, args=args, created=time.time(), processes=tuple(processes))


def _has_bundle(words: list[str], id: str) -> bool:
    """Return whether a command line names the bundle of the sandbox `id`."""
    return any(word.endswith(f"/boxes/{id}") for word in words)


def end_processes(id: str, pidfds: list[int]) -> None:
    """Kill the processes of a sandbox, and wait until they have ended.

    :raises BusyError: a process does not end in time; a FUSE filesystem can keep it from that.
    """
    for pidfd in pidfds:
        kill(pidfd)
    deadline = time.monotonic() + _END_SECONDS
    for pidfd in pidfds:
        if not wait_readable(pidfd, timeout=deadline - time.monotonic()):
            raise BusyError(
                f"a process of the sandbox {id!r} was killed, and has not ended after "
                f"{_END_SECONDS} seconds",
                step="sandbox",
            )
        reap(pidfd)


def close_pidfds(pidfds: Iterable[int | None]) -> None:
    """Close those that are not ``None``."""
    for pidfd in pidfds:
        if pidfd is not None:
            os.close(pidfd)


def duplicate_id(id: str, where: str) -> RunscError:
    """Return the error that an id is taken."""
    return RunscError(
        f"there is a sandbox {id!r} {where} already",
        step="sandbox",
        cause="duplicate-id",
        remedy="choose another id, or leave it out",
    )
