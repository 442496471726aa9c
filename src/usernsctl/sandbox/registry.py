"""What is known of detached sandboxes: any process of the same user finds them by their ids.

Each has a directory below that of :mod:`usernsctl.state`, with runsc's own state in it. A lock on
it (flock(2)) tells that the sandbox is just being started or ended. Without the lock it is believed
that the sandbox lives if its process does, and is the same as when it was written down; else what
is left of it is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from usernsctl import identity
from usernsctl.errors import RunscError
from usernsctl.identity import ProcessIdentity
from usernsctl.sandbox.files import duplicate_id
from usernsctl.state import locked_directory, state_directory, unusable
from usernsctl.waiting import wait_readable

_DIRECTORY = "sandboxes"
_RECORD = "sandbox.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachedSandbox:
    """What is written down of a detached sandbox.

    :ivar id: what runsc calls it.
    :ivar args: the command, empty if it is the bundle's own.
    :ivar created: when it was started, in seconds since 1970.
    :ivar runsc: the path of the runsc that started it.
    :ivar processes: runsc's processes, first that which the command runs in.
    :ivar env: the environment of the command, each entry NAME=VALUE.
    """

    id: str
    args: tuple[str, ...]
    created: float
    runsc: str
    processes: tuple[ProcessIdentity, ...]
    env: tuple[str, ...] = field(repr=False)

    @property
    def pid(self) -> int:
        """The process of runsc that the command runs in."""
        return self.processes[0].pid

    def is_foreign(self) -> bool:
        """Whether its pids mean nothing to this process, as in another container."""
        return self.processes[0].is_foreign()

    def is_alive(self) -> bool:
        """Whether the sandbox runs; it must not be foreign."""
        return self.processes[0].is_alive()

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "args": self.args,
            "created": self.created,
            "runsc": self.runsc,
            "env": self.env,
            "processes": [asdict(one) for one in self.processes],
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> DetachedSandbox:
        """Read what :meth:`to_json` has made.

        :raises ArithmeticError, LookupError, TypeError, ValueError: it has not.
        """
        made = cls(
            id=str(state["id"]),
            args=tuple(map(str, state["args"])),
            created=float(state["created"]),
            runsc=str(state["runsc"]),
            processes=tuple(map(ProcessIdentity.from_json, state["processes"])),
            env=tuple(map(str, state["env"])),
        )
        if not made.processes:
            raise ValueError("there are no processes")
        return made


class Entry:
    """The directory of one detached sandbox, held by a descriptor, `fd`."""

    def __init__(self, id: str, fd: int) -> None:
        self.id = id
        self.fd = fd
        #: Where runsc finds it. It is in a directory that nobody else may write to.
        self.path = str(Path(os.path.abspath(state_directory()), _DIRECTORY, id))
        self.state = f"{self.path}/state"

    def lock(self, *, wait: bool = True) -> bool:
        """Lock it for this process, and those that it passes the descriptor on to.

        :returns: whether it could be had; always, if `wait`.
        """
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def write(self, record: DetachedSandbox) -> None:
        """Write down what is known.

        :raises NamespaceError: it can't be written; there is no space, for example.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with open(os.open(_RECORD, flags, 0o600, dir_fd=self.fd), "w") as file:
                json.dump(record.to_json(), file)
        except OSError as error:
            raise unusable(Path(self.path), error) from error

    def read(self) -> DetachedSandbox | None:
        """What is known; ``None`` if nothing is, or nothing that makes sense."""
        flags = os.O_RDONLY | os.O_CLOEXEC
        with (
            contextlib.suppress(
                FileNotFoundError, ArithmeticError, LookupError, TypeError, ValueError
            ),
            open(os.open(_RECORD, flags, dir_fd=self.fd), encoding="utf-8") as file,
        ):
            return DetachedSandbox.from_json(json.load(file))
        return None

    def remove(self) -> None:
        """Remove the directory, unless that has been done and it is another one by now.

        :raises NamespaceError: the state directory can't be trusted.
        """
        with locked_directory() as top:
            self.remove_in(top)

    def remove_in(self, top: Path) -> None:
        """The same where the state directory is locked already."""
        path = top / _DIRECTORY / self.id
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(self.fd)):
                shutil.rmtree(path)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def claim(id: str) -> Entry:
    """Take an id, and make a directory for it: locked, and with one for runsc's state in it.

    :raises RunscError: it is taken.
    :raises NamespaceError: the state directory can't be used.
    """
    with locked_directory() as top:
        directory = top / _DIRECTORY
        directory.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError), _opened(top, id) as entry:
            if not entry.lock(wait=False) or _live_record(top, entry) is not None:
                raise duplicate_id(id, "that is detached")
        (directory / id).mkdir(mode=0o700)
        entry = _open(top, id)
        entry.lock()
        try:
            os.mkdir("state", 0o700, dir_fd=entry.fd)
        except BaseException:
            entry.remove_in(top)
            entry.close()
            raise
        return entry


def find(id: str) -> tuple[Entry, DetachedSandbox]:
    """Look for a detached sandbox; one that is just being started or ended is waited for.

    :returns: its directory, which the caller closes, and what is known of it.
    :raises RunscError: there is none, or it has ended: what it left is removed then.
    :raises NamespaceError: the state directory can't be used.
    """
    while True:
        with locked_directory() as top:
            try:
                entry = _open(top, id)
            except FileNotFoundError as error:
                raise _no_sandbox(f"there is no detached sandbox {id!r}") from error
            if entry.lock(wait=False):
                record = _live_record(top, entry)
                entry.unlock()
                if record is not None and not record.is_foreign():
                    return entry, record
                entry.close()
                why = "has ended" if record is None else "is in another PID namespace"
                raise _no_sandbox(f"the detached sandbox {id!r} {why}")
        entry.lock()
        entry.unlock()
        entry.close()


def list_all() -> list[DetachedSandbox]:
    """All detached sandboxes of this user, by their ids; what dead ones left is removed.

    One that is just being started or ended is left out, and one in another PID namespace.

    :raises NamespaceError: the state directory can't be used.
    """
    found = []
    with locked_directory() as top, contextlib.suppress(FileNotFoundError):
        for id in sorted(os.listdir(top / _DIRECTORY)):
            with _opened(top, id) as entry:
                record = _live_record(top, entry) if entry.lock(wait=False) else None
                if record is not None and not record.is_foreign():
                    found.append(record)
    return found


def describe(
    id: str, args: tuple[str, ...], runsc: str, pid: int, starter: int, env: tuple[str, ...]
) -> DetachedSandbox:
    """Look at what a start has brought about.

    :param pid: the process of the sandbox, a child of `starter` by now.
    """
    text = Path(f"/proc/{starter}/task/{starter}/children").read_text()
    others = {int(word) for word in text.split()} - {pid}
    processes = [ProcessIdentity.of(pid)]
    for other in sorted(others):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            processes.append(ProcessIdentity.of(other))
    return DetachedSandbox(
        id=id,
        args=args,
        created=time.time(),
        runsc=runsc,
        processes=tuple(processes),
        env=env,
    )


def end(pidfds: list[int]) -> None:
    """Kill processes, and wait until they have ended."""
    for pidfd in pidfds:
        identity.kill(pidfd)
    for pidfd in pidfds:
        wait_readable(pidfd)
        identity.collect(pidfd)


def _open(top: Path, id: str) -> Entry:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return Entry(id, os.open(top / _DIRECTORY / id, flags))


@contextlib.contextmanager
def _opened(top: Path, id: str) -> Iterator[Entry]:
    entry = _open(top, id)
    try:
        yield entry
    finally:
        entry.close()


def _live_record(top: Path, entry: Entry) -> DetachedSandbox | None:
    """What is known of a sandbox that lives, or may; of another one, what it left is removed.

    The state directory and `entry` are locked.
    """
    record = entry.read()
    if record is not None and (record.is_foreign() or record.is_alive()):
        return record
    # Its gofer takes a moment longer.
    opened = [one.open() for one in record.processes] if record is not None else []
    pidfds = [pidfd for pidfd in opened if pidfd is not None]
    try:
        end(pidfds)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)
    entry.remove_in(top)
    return None


def _no_sandbox(reason: str) -> RunscError:
    return RunscError(
        reason,
        step="sandbox",
        cause="no-such-sandbox",
        remedy="usernsctl.Sandbox.list_detached() tells which there are",
    )
