"""Named namespaces, which any process of the same user can find.

A holder, a sleeping usernsctl-exec, keeps each namespace open. Its record is in a directory that
only the user may write to, and is protected by a lock on that directory. A record counts only while
the holder lives and is still the same process.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from usernsctl import _core
from usernsctl._core.values import find_program
from usernsctl._lean import asdict, dataclass
from usernsctl._system.descriptors import Closing, receive, wait_readable
from usernsctl._system.processes import (
    ForeignProcessError,
    ProcessIdentity,
    is_in_our_namespace,
    kill,
    name_of,
    parse_timestamp,
)
from usernsctl._system.records import NAME, NAME_RULE, Directory, invalid_record, locked_directory
from usernsctl.errors import NamespaceError
from usernsctl.maps import Extent, IdMap, parse_map

STEP = "name"

_HOLDER_NAME = "usernsctl-hold"  # UN_HOLDER_NAME in csrc/programs/exec/exec.h
# Before it has that one: of the program.
_STARTING_NAME = "usernsctl-exec"
_OPEN_SECONDS = 2
_END_SECONDS = 10
_NAP_SECONDS = 0.0002


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNamespace:
    """The record of a named namespace.

    :ivar pid: the pid of the holder.
    :ivar start_time: the start of the holder, in clock ticks after boot (proc_pid_stat(5)).
    :ivar boot_id: the id of the boot that `start_time` counts from.
    :ivar pid_namespace: the inode number of the PID namespace of `pid`.
    :ivar created: the time of its creation, in seconds since 1970.
    :ivar namespaces: the kinds of its namespaces, ``"user"`` among them.
    :ivar uid: the map of uids.
    :ivar gid: the map of gids.
    :ivar notice: the output of usernsctl-exec at its creation, such as a warning; mostly empty.
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
        """Return the number of processes inside, without the holder."""
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
        """Check at the begin and the end of a block that `pid` is the pid of the holder.

        :raises NamespaceError: the holder has ended.
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
        """Return the record of a holder.

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
            created=parse_timestamp(state["created"]),
            namespaces=namespaces,
            uid=tuple(Extent(*map(int, extent)) for extent in state["uid"]),
            gid=tuple(Extent(*map(int, extent)) for extent in state["gid"]),
            notice=str(state["notice"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        state = asdict(self)
        state["uid"] = [list(extent) for extent in self.uid]
        state["gid"] = [list(extent) for extent in self.gid]
        return state

    def is_foreign(self) -> bool:
        """Return whether the holder is in another PID namespace, such as that of a container."""
        return self._identity().is_foreign()

    def is_alive(self) -> bool:
        """Return whether the process with the pid of the holder is the holder, and not a later one.

        The holder must not be foreign. A holder gets its name when it may stay: one whose creator
        was killed before has another name, and is about to end.

        :raises Stranger: there is such a process, but what it holds is not this user's.
        """
        with self._held_holder() as pidfd:
            return pidfd is not None

    def kill(self) -> None:
        """Kill the holder, and wait for its end.

        As process 1, the holder ends after all processes of its PID namespace. A process there may
        not end while it waits for a FUSE filesystem that root inside has mounted.

        :raises NamespaceError: the holder did not end in time.
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
        """Yield a pidfd of the holder, or None if the holder has ended."""
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
    """Return whether a process is a holder of this user, or about to be one, or has ended."""
    deadline = time.monotonic() + _OPEN_SECONDS
    while _is_becoming_holder(process.pid) and process.is_running():
        if time.monotonic() > deadline:
            return _is_other(process.pid)
        time.sleep(_NAP_SECONDS)
    return _is_other(process.pid) or is_in_our_namespace(process.pid)


def _is_becoming_holder(pid: int) -> bool:
    """Return whether a process is about to become a holder.

    A holder whose creator was killed may not have read yet that it may stay. A holder has its name
    a moment before its namespaces can be opened, since it closes all descriptors before that, and
    has none left to report by.
    """
    name = name_of(pid)
    if name == _HOLDER_NAME:
        return not os.access(f"/proc/{pid}/ns/user", os.R_OK)
    return name == _STARTING_NAME


def read_map(path: str) -> tuple[Extent, ...]:
    """Read the map in a file such as /proc/PID/uid_map (user_namespaces(7)).

    :raises OSError: the file can't be read.
    """
    return parse_map(Path(path).read_text())


_SUFFIX = ".json"
# The time limit of a holder's start, in seconds; newuidmap may ask a slow user database.
_READY_SECONDS = 30


def find_named(name: str) -> NamedNamespace:
    """Return the record of a named namespace.

    :raises NamespaceError: no namespace has that name, its holder is in another PID namespace, or
        its record is not to be trusted.
    """
    _check_name(name)
    with locked_directory() as directory:
        found = _read_own(directory, name)
    if found is None:
        remedy = f"usernsctl ns create {name}"
        raise _error(f"there is no namespace {name!r}", "no-such-namespace", remedy)
    return found


def create_named(name: str, options: Iterable[str]) -> NamedNamespace:
    """Create a namespace and its holder.

    :param options: the map and namespace options of ``usernsctl-exec``.
    :raises NamespaceError: the name is malformed or taken, or the kernel refused the namespace.
    """
    _check_name(name)
    with locked_directory() as directory:
        _check_free(directory, name)
    with _Holder(options) as holder, locked_directory() as directory:
        _check_free(directory, name)
        return holder.keep(directory, name)


@contextlib.contextmanager
def open_or_create(name: str, options: Iterable[str]) -> Iterator[NamedNamespace]:
    """Yield the record of a named namespace, which is created if it does not exist.

    The namespace is not removed during the block. Several processes may call this at the same time.

    :param options: as for :func:`create_named`; without effect if the namespace exists.
    :raises NamespaceError: as :func:`create_named` does, except for a name that is taken.
    """
    _check_name(name)
    with locked_directory() as directory:
        found = _read_own(directory, name)
        if found is not None:
            yield found
            return
    # The lock is free while newuidmap runs. If several processes start a holder for the same name,
    # the first one to write its record wins, and the other holders end.
    with _Holder(options) as holder, locked_directory() as directory:
        yield _read_own(directory, name) or holder.keep(directory, name)


def list_named() -> list[NamedNamespace]:
    """Return the records of all named namespaces of this user in this PID namespace.

    The records of dead holders are removed.

    :raises NamespaceError: the state directory is not to be trusted.
    """
    found = []
    with locked_directory() as directory:
        for name in directory.names(_SUFFIX):
            with contextlib.suppress(ForeignProcessError):
                found.append(_read_live(directory, name))
    return [each for each in found if each is not None and not each.is_foreign()]


def remove_named(name: str) -> None:
    """Kill the holder of a named namespace, and remove its record.

    Processes inside go on, except those in its PID namespace, which the kernel kills.

    :raises NamespaceError: no namespace has that name, or its holder is in another PID namespace.
    """
    _check_name(name)
    with locked_directory() as directory:
        found = _read_own(directory, name)
        if found is None:
            raise _error(f"there is no namespace {name!r}", "no-such-namespace")
        found.kill()
        directory.remove(_file(name))


def options_of(idmap: IdMap, namespaces: Iterable[str]) -> list[str]:
    """Return the options of ``usernsctl-exec`` for a map and kinds of namespaces."""
    options = ["--user", *(f"--{name}" for name in namespaces)]
    if idmap.map_user is not None:
        options.append(f"--map-user={idmap.map_user}")
    if idmap.map_group is not None:
        options.append(f"--map-group={idmap.map_group}")
    options += [f"--map-users={extent}" for extent in idmap.map_users]
    options += [f"--map-groups={extent}" for extent in idmap.map_groups]
    if idmap.fill_users != "none":
        options.append(f"--map-users={idmap.fill_users}")
    if idmap.fill_groups != "none":
        options.append(f"--map-groups={idmap.fill_groups}")
    if idmap.setgroups != "auto":
        options.append(f"--setgroups={idmap.setgroups}")
    if idmap.allow_single_id:
        options.append("--allow-single-id")
    return options


def _holder_program() -> str:
    return find_program("usernsctl-exec", "holds namespaces")


def _error(reason: str, cause: str | None = None, remedy: str | None = None) -> NamespaceError:
    return NamespaceError(reason, step=STEP, cause=cause, remedy=remedy)


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME, name):
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        raise _error(f"{shown!r} is no name for a namespace: {NAME_RULE}", "name-invalid")


def _file(name: str) -> str:
    return f"{name}{_SUFFIX}"


def _check_free(directory: Directory, name: str) -> None:
    if _read_own(directory, name) is not None:
        remedy = f"usernsctl ns remove {name}, or choose another name"
        raise _error(f"there is a namespace {name!r} already", "name-taken", remedy)


def _read_own(directory: Directory, name: str) -> NamedNamespace | None:
    """Return the record of a live holder in this PID namespace; remove that of a dead one.

    :raises NamespaceError: the holder is in another PID namespace, or the record is not true.
    """
    try:
        found = _read_live(directory, name)
    except ForeignProcessError as error:
        raise invalid_record(f"{directory.path}/{_file(name)}", error.reason) from None
    if found is not None and found.is_foreign():
        raise _error(
            f"the namespace {name!r} is in another PID namespace, such as another container's",
            "name-taken",
            "choose another name, or set XDG_RUNTIME_DIR to a directory of this container's own",
        )
    return found


def _read_live(directory: Directory, name: str) -> NamedNamespace | None:
    """Return the record of a holder that lives or may live; remove that of a dead one.

    :raises Stranger: what is known of it is not true.
    """
    try:
        record = directory.read(_file(name))
        if record is None:
            return None
        found = NamedNamespace.from_json(name, record)
        if found.is_foreign() or found.is_alive():
            return found
    except (ArithmeticError, LookupError, TypeError, ValueError):
        # The writer was killed in the middle, and its holder ended without an answer.
        pass
    directory.remove(_file(name))
    return None


class _Holder(Closing):
    """A new holder, which ends unless :meth:`keep` is called.

    If this process ends before that, the holder sees the end of the connection, and ends, too.
    """

    def __init__(self, options: Iterable[str]) -> None:
        """Start a holder, and wait until it has the namespace.

        :raises NamespaceError: the holder failed.
        """
        with NamespaceError.instead("the holder", step=STEP):
            self._begin(options)

    def _begin(self, options: Iterable[str]) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                started = subprocess.run(
                    [_holder_program(), f"--hold={theirs.fileno()}", *options],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    # All processes inside may read the environment of the holder, while it lives.
                    env={name: os.environ[name] for name in ("PATH",) if name in os.environ},
                    pass_fds=[theirs.fileno()],
                )
            self._pid, self._fds = _wait_until_ready(self._connection, started)
        except BaseException:
            self._connection.close()
            raise
        self._notice = started.stderr.strip()

    def keep(self, directory: Directory, name: str) -> NamedNamespace:
        """Write the record, and then let the holder stay."""
        made = NamedNamespace.describe(name, self._pid, self._fds, notice=self._notice)
        directory.write(_file(name), made.to_json())
        self._connection.send(b"+")
        # The holder closes the connection once it has the name of a holder.
        self._connection.recv(1)
        return made

    def close(self) -> None:
        """Close the descriptors of the namespaces; end the holder unless it may stay."""
        for fd in self._fds:
            os.close(fd)
        self._connection.close()


def _wait_until_ready(
    ours: socket.socket, started: subprocess.CompletedProcess[str]
) -> tuple[int, list[int]]:
    """Read the holder's answer; return its pid, and descriptors that the caller closes.

    :raises NamespaceError: the holder failed.
    """
    ours.settimeout(_READY_SECONDS)
    pid, fds = None, list[int]()
    with contextlib.suppress(TimeoutError):
        while pid is None or not fds:
            data, received = receive(ours, 4096, len(_core.NAMESPACE_FILES))
            word, _, rest = data.decode(errors="replace").partition(" ")
            if word == "error":
                raise _reported_error(rest)
            # Two processes send these two messages.
            if word == "pid":
                pid = int(rest)
            elif word == "ready":
                fds = received
            else:
                break
    if pid is not None and fds:
        return pid, fds
    for fd in fds:
        os.close(fd)
    told = started.stderr.strip().split("\n")[0] or f"exit status {started.returncode}"
    raise _error(f"the holder did not get ready: {told}")


def _reported_error(text: str) -> NamespaceError:
    """Return the error that un_hold_report() of csrc/programs/exec/hold.c wrote."""
    step, number, cause_id, rest = [*text.split(" ", 3), ""][:4]
    detail, _, remedy = rest.partition("\0")
    errno = int(number)
    said = os.strerror(errno) if errno else ""
    cause = None if cause_id == "-" else cause_id
    known = _core.cause(cause)
    return NamespaceError(
        ": ".join(part for part in (detail, said) if part),
        step=step,
        errno=errno,
        cause=cause,
        remedy=remedy or (known.remedy if known else None),
    )
