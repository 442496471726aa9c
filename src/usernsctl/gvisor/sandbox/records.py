"""What is known of detached sandboxes: any process of the same user finds them by their ids.

Each has a directory below that of :mod:`usernsctl._system.state`, with runsc's own state in it. A
lock on it (flock(2)) tells that the sandbox is just being started or ended. Without the lock it is
believed that the sandbox lives if its process does, and is the same as when it was written down;
else what is left of it is removed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from usernsctl._lean import asdict, dataclass
from usernsctl._system.descriptors import wait_readable
from usernsctl._system.processes import (
    ForeignProcessError,
    ProcessIdentity,
    command_line_of,
    is_in_our_namespace,
    kill,
    parse_timestamp,
    reap,
)
from usernsctl._system.records import Directory, invalid_record, locked_directory
from usernsctl.errors import RunscError
from usernsctl.gvisor.agent.start import ProcessDefaults

_DIRECTORY = "sandboxes"
_RECORD = "sandbox.json"
_STATE = "state"

# runsc has two that know of the sandbox; and more for whatever a later release may add.
_PROCESSES_MAX = 8

# How often to look again for a sandbox that somebody else has started or ended meanwhile.
_LOOKS_MAX = 8


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
        """The pid of the process of runsc that runs the command."""
        return self.processes[0].pid

    def is_foreign(self) -> bool:
        """Return whether the pids are those of another PID namespace, such as a container."""
        return self.processes[0].is_foreign()

    def open_processes(self) -> list[int | None]:
        """Return pidfds of :attr:`processes`, which the caller closes; ``None`` for ended ones.

        :meta private:
        :raises Stranger: one is none of this sandbox's.
        """
        opened: list[int | None] = []
        try:
            for one in self.processes:
                opened.append(one.open(self._is_mine))
        except BaseException:
            close_detached(opened)
            raise
        return opened

    def _is_mine(self, pid: int) -> bool:
        """Whether a process is in a namespace of this user's making, and has our bundle."""
        words = command_line_of(pid)
        # Without words it is about to end.
        return is_in_our_namespace(pid) and (not words or _names(words, self.id))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values.

        :meta private:
        """
        return {
            "id": self.id,
            "args": self.args,
            "created": self.created,
            "processes": [asdict(one) for one in self.processes],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> DetachedRecord:
        """Read what :meth:`to_json` has made.

        :meta private:
        :raises ArithmeticError: it has not.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        made = cls(
            id=str(state["id"]),
            args=tuple(map(str, state["args"])),
            created=parse_timestamp(state["created"]),
            processes=tuple(map(ProcessIdentity.from_json, state["processes"])),
        )
        if not 0 < len(made.processes) <= _PROCESSES_MAX:
            raise ValueError("there are no processes, or too many")
        return made


class Entry:
    """The directory of one detached sandbox, held by descriptors.

    :ivar directory: that directory.
    """

    def __init__(self, id: str, parent: Directory, directory: Directory) -> None:
        self.id = id
        self.directory = directory
        self._parent = parent

    @property
    def path(self) -> str:
        """Where it was found. It is in a directory that nobody else may write to."""
        return self.directory.path

    @property
    def fd(self) -> int:
        """Its descriptor; -1 once it is closed."""
        return self.directory.fd

    @property
    def state(self) -> str:
        """The directory for runsc's state, for whoever has :attr:`fd`."""
        return f"/proc/self/fd/{self.fd}/{_STATE}"

    def open_state(self) -> int:
        """A descriptor of the directory for runsc's state, the caller's to close.

        :raises NamespaceError: there is none, or it can't be trusted.
        """
        try:
            return self.directory.open(_STATE).fd
        except FileNotFoundError as error:
            raise invalid_record(self.path, f"it has no directory {_STATE}") from error

    def lock(self) -> bool:
        """Lock it for this process, and those that it passes the descriptor on to.

        :returns: whether it could be had: for some time, somebody else is waited for.
        """
        return self.directory.lock()

    def try_lock(self) -> bool:
        """Lock it if nobody else has; whether that was so."""
        return self.directory.lock(0)

    def unlock(self) -> None:
        """Let others lock it."""
        self.directory.unlock()

    def write(self, record: DetachedRecord) -> None:
        """Write down what is known.

        :raises NamespaceError: it can't be written; there is no space, for example.
        """
        self.directory.write(_RECORD, record.to_json())

    def read(self) -> DetachedRecord | None:
        """What is known; ``None`` if nothing is, or nothing that makes sense.

        :raises NamespaceError: the record is no file that only this user has written.
        """
        with contextlib.suppress(ArithmeticError, LookupError, TypeError, ValueError):
            record = self.directory.read(_RECORD)
            made = None if record is None else DetachedRecord.from_json(record)
            if made is not None and made.id == self.id:
                return made
        return None

    def inherited(self) -> ProcessDefaults:
        """What all commands of the sandbox have in common, by runsc's own state.

        It is not written down a second time: values of its environment may be secrets.

        :raises RunscError: it can't be told.
        """
        with (
            contextlib.suppress(
                ArithmeticError, AttributeError, LookupError, TypeError, ValueError
            ),
            Directory(self.open_state(), f"{self.path}/{_STATE}") as state,
        ):
            found = [name for name in os.listdir(state.fd) if name.endswith(".state")]
            if len(found) == 1:
                return ProcessDefaults.of_config(state.read(found[0])["spec"])
        raise RunscError(
            f"what the commands of the sandbox {self.id} have in common can't be told: "
            "runsc has written its state in another way",
            step="sandbox",
            remedy="start it anew",
        )

    def remove(self) -> None:
        """Remove the directory, unless that has been done and it is another one by now.

        Whoever has the lock on it may do that at any time.

        :raises NamespaceError: it can't be removed.
        """
        self._parent.remove_tree(self.directory, self.id)

    def close(self) -> None:
        """Close the directories; that unlocks, too."""
        self.directory.close()
        self._parent.close()


def claim_detached(id: str) -> Entry:
    """Take an id, and make a directory for it: locked, and with one for runsc's state in it.

    :raises RunscError: it is taken.
    :raises NamespaceError: the state directory can't be used.
    """
    with locked_directory() as top:
        with (
            contextlib.suppress(FileNotFoundError),
            _opened(top, id) as entry,
            _believed(entry),
        ):
            if not entry.try_lock() or _live_record(entry) is not None:
                raise duplicate_id(id, "that is detached")
        parent = top.make(_DIRECTORY, exist_ok=True)
        try:
            entry = Entry(id, parent, parent.make(id))
        except BaseException:
            parent.close()
            raise
        try:
            entry.try_lock()
            entry.directory.make(_STATE).close()
        except BaseException:
            with contextlib.closing(entry):
                entry.remove()
            raise
        return entry


def find_detached(id: str) -> tuple[Entry, DetachedRecord]:
    """Look for a detached sandbox; one that is just being started or ended is waited for.

    :returns: its directory, which the caller closes, and what is known of it.
    :raises RunscError: there is none, or it has ended: what it left is removed then.
    :raises NamespaceError: the state directory can't be used, what is known of the sandbox is not
        true, or whoever starts or ends it takes too long.
    """
    for _ in range(_LOOKS_MAX):
        with locked_directory() as top:
            try:
                entry = _open(top, id)
            except FileNotFoundError as error:
                raise _no_sandbox(f"there is no detached sandbox {id!r}") from error
            with contextlib.ExitStack() as undo:
                undo.callback(entry.close)
                if entry.try_lock():
                    try:
                        with _believed(entry):
                            record = _live_record(entry)
                    finally:
                        entry.unlock()
                    if record is not None and not record.is_foreign():
                        undo.pop_all()
                        return entry, record
                    why = "has ended" if record is None else "is in another PID namespace"
                    raise _no_sandbox(f"the detached sandbox {id!r} {why}")
                undo.pop_all()
        try:
            if not entry.lock():
                break
            entry.unlock()
        finally:
            entry.close()
    raise RunscError(
        f"the detached sandbox {id!r} is just being started or ended, and has been for too long",
        step="sandbox",
        errno=errno.EAGAIN,
        remedy="try again",
    )


def list_detached() -> list[DetachedRecord]:
    """All detached sandboxes of this user, by their ids; what dead ones left is removed.

    One that is just being started or ended is left out, one in another PID namespace, and one of
    which nothing true is known.

    :raises NamespaceError: the state directory can't be used.
    """
    found: list[DetachedRecord] = []
    with locked_directory() as top:
        try:
            with top.open(_DIRECTORY) as parent:
                names = parent.names()
        except FileNotFoundError:
            return found
        for id in names:
            with (
                contextlib.suppress(FileNotFoundError, ForeignProcessError),
                _opened(top, id) as entry,
            ):
                record = _live_record(entry) if entry.try_lock() else None
                if record is not None and not record.is_foreign():
                    found.append(record)
    return found


def describe_detached(id: str, args: tuple[str, ...], pid: int, starter: int) -> DetachedRecord:
    """Look at what a start has brought about.

    What can't be known again is left out: runsc-fd-parking (since 20260831) has no words of the
    sandbox. It waits for the sandbox's end, and ends.

    :param pid: the process of the sandbox, a child of `starter` by now.
    """
    text = Path(f"/proc/{starter}/task/{starter}/children").read_text()
    others = {int(word) for word in text.split()} - {pid}
    processes = [ProcessIdentity.of(pid)]
    for other in sorted(others):
        if _names(command_line_of(other), id):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                processes.append(ProcessIdentity.of(other))
    return DetachedRecord(id=id, args=args, created=time.time(), processes=tuple(processes))


def _names(words: list[str], id: str) -> bool:
    """Whether a command line has the bundle of the sandbox `id`."""
    return any(word.endswith(f"/boxes/{id}") for word in words)


def end_detached(pidfds: list[int]) -> None:
    """Kill processes, and wait until they have ended."""
    for pidfd in pidfds:
        kill(pidfd)
    for pidfd in pidfds:
        wait_readable(pidfd)
        reap(pidfd)


def close_detached(pidfds: Iterable[int | None]) -> None:
    """Close descriptors of processes; ``None`` stands for none."""
    for pidfd in pidfds:
        if pidfd is not None:
            os.close(pidfd)


def _open(top: Directory, id: str) -> Entry:
    """Open the directory of a sandbox.

    :raises FileNotFoundError: there is none.
    """
    parent = top.open(_DIRECTORY)
    try:
        return Entry(id, parent, parent.open(id))
    except BaseException:
        parent.close()
        raise


@contextlib.contextmanager
def _opened(top: Directory, id: str) -> Iterator[Entry]:
    entry = _open(top, id)
    try:
        yield entry
    finally:
        entry.close()


@contextlib.contextmanager
def _believed(entry: Entry) -> Iterator[None]:
    """Have a record that is not true be told of where it is."""
    try:
        yield
    except ForeignProcessError as error:
        raise invalid_record(entry.path, error.reason) from None


def _live_record(entry: Entry) -> DetachedRecord | None:
    """What is known of a sandbox that lives, or may; of another one, what it left is removed.

    The state directory and `entry` are locked.

    :raises Stranger: what is known of it is not true: nothing is done about it.
    """
    record = entry.read()
    if record is not None and record.is_foreign():
        return record
    pidfds = record.open_processes() if record is not None else []
    try:
        if pidfds and pidfds[0] is not None:
            return record
        # Its gofer takes a moment longer.
        end_detached([pidfd for pidfd in pidfds if pidfd is not None])
    finally:
        close_detached(pidfds)
    entry.remove()
    return None


def _no_sandbox(reason: str) -> RunscError:
    return RunscError(
        reason,
        step="sandbox",
        cause="no-such-sandbox",
        remedy="usernsctl.Sandbox.list_detached() tells which there are",
    )


def duplicate_id(id: str, where: str) -> RunscError:
    """The error that an id is taken."""
    return RunscError(
        f"there is a sandbox {id!r} {where} already",
        step="sandbox",
        cause="duplicate-id",
        remedy="choose another id, or leave it out",
    )
