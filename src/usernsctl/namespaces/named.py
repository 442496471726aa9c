"""Namespaces that have a name: any process of the same user finds them.

A holder, a copy of the native prelude that sleeps, keeps each of them. What is known of it lies in
a directory that only the user can write, under a lock on that directory; it is believed only as
long as the holder is alive and is the same process as then.
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
            created=parse_timestamp(state["created"]),
            namespaces=namespaces,
            uid=tuple(Extent(*map(int, extent)) for extent in state["uid"]),
            gid=tuple(Extent(*map(int, extent)) for extent in state["gid"]),
            notice=str(state["notice"]),
        )

    def to_json(self) -> dict[str, Any]:
        """What is written down."""
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
    return _is_other(process.pid) or is_in_our_namespace(process.pid)


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


_SUFFIX = ".json"
# How long a holder may take to get ready; newuidmap may ask a slow user database.
_READY_SECONDS = 30


def find_named(name: str) -> NamedNamespace:
    """What is known of a named namespace.

    :raises NamespaceError: there is none of that name, it is in another PID namespace, or its
        state can't be trusted.
    """
    _check_name(name)
    with locked_directory() as directory:
        found = _read_own(directory, name)
    if found is None:
        remedy = f"usernsctl ns create {name}"
        raise _error(f"there is no namespace {name!r}", "no-such-namespace", remedy)
    return found


def create_named(name: str, options: Iterable[str]) -> NamedNamespace:
    """Make a namespace and a process that holds it.

    :param options: the map and namespace options of ``usernsctl-exec``.
    :raises NamespaceError: the name is malformed or taken, or the namespace can't be had.
    """
    _check_name(name)
    with locked_directory() as directory:
        _check_free(directory, name)
    with _Holder(options) as holder, locked_directory() as directory:
        _check_free(directory, name)
        return holder.keep(directory, name)


@contextlib.contextmanager
def open_or_create(name: str, options: Iterable[str]) -> Iterator[NamedNamespace]:
    """A named namespace, which is made if there is none; it stays as it is for a block.

    Any number may call it at once.

    :param options: as :func:`create_named` has them; not looked at if there is one.
    :raises NamespaceError: as :func:`create_named` does, but for a name that is taken.
    """
    _check_name(name)
    with locked_directory() as directory:
        found = _read_own(directory, name)
        if found is not None:
            yield found
            return
    # Nobody is to wait for newuidmap with the lock held. If several come so far, the first one has
    # the name, and the holders of the others end.
    with _Holder(options) as holder, locked_directory() as directory:
        yield _read_own(directory, name) or holder.keep(directory, name)


def list_named() -> list[NamedNamespace]:
    """All named namespaces of this user; what dead holders left is cleaned away.

    Those in another PID namespace are left out.

    :raises NamespaceError: the state directory can't be trusted.
    """
    found = []
    with locked_directory() as directory:
        for name in directory.names(_SUFFIX):
            with contextlib.suppress(ForeignProcessError):
                found.append(_read_live(directory, name))
    return [each for each in found if each is not None and not each.is_foreign()]


def remove_named(name: str) -> None:
    """End the holder and forget the name.

    Processes inside stay there, but for those in a PID namespace of it, which the kernel kills.

    :raises NamespaceError: there is none of that name, or it is in another PID namespace.
    """
    _check_name(name)
    with locked_directory() as directory:
        found = _read_own(directory, name)
        if found is None:
            raise _error(f"there is no namespace {name!r}", "no-such-namespace")
        found.kill()
        directory.remove(_file(name))


def options_of(idmap: IdMap, namespaces: Iterable[str]) -> list[str]:
    """The options of ``usernsctl-exec`` that say the same."""
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
    """What is known of a name, if its holder is alive; else it is forgotten.

    :raises NamespaceError: whether it is alive can't be told from here, or what is known of it is
        not true.
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
    """What is known of a name, if its holder is alive, or may be; else it is forgotten.

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
        # Its writer was killed in the middle, and the holder ended for want of an answer.
        pass
    directory.remove(_file(name))
    return None


class _Holder(Closing):
    """A process that holds a namespace, and ends unless it is told to stay.

    If this process ends before that, the holder sees its connection closed and ends too.
    """

    def __init__(self, options: Iterable[str]) -> None:
        """Start it, and wait until it holds the namespace.

        :raises NamespaceError: it failed.
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
                    # The holder has it for as long as it stays, where all inside may read it.
                    env={name: os.environ[name] for name in ("PATH",) if name in os.environ},
                    pass_fds=[theirs.fileno()],
                )
            self._pid, self._fds = _wait_until_ready(self._connection, started)
        except BaseException:
            self._connection.close()
            raise
        self._notice = started.stderr.strip()

    def keep(self, directory: Directory, name: str) -> NamedNamespace:
        """Write down what it is, and only then let it stay."""
        made = NamedNamespace.describe(name, self._pid, self._fds, notice=self._notice)
        directory.write(_file(name), made.to_json())
        self._connection.send(b"+")
        # It closes the connection when it has the name that it is known by.
        self._connection.recv(1)
        return made

    def close(self) -> None:
        """Let go of its namespaces, and, if it was not told to stay, of it."""
        for fd in self._fds:
            os.close(fd)
        self._connection.close()


def _wait_until_ready(
    ours: socket.socket, started: subprocess.CompletedProcess[str]
) -> tuple[int, list[int]]:
    """Hear the holder out; its pid, and descriptors of its namespaces, which are the caller's.

    :raises NamespaceError: it failed.
    """
    ours.settimeout(_READY_SECONDS)
    pid, fds = None, list[int]()
    with contextlib.suppress(TimeoutError):
        while pid is None or not fds:
            data, received = receive(ours, 4096, len(_core.NAMESPACE_FILES))
            word, _, rest = data.decode(errors="replace").partition(" ")
            if word == "error":
                raise _reported_error(rest)
            # These two are sent by two processes.
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
    """What un_hold_report() in csrc/programs/exec/hold.c wrote."""
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
