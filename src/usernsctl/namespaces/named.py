"""Named namespaces, which any process of the same user can find.

A holder, a sleeping ``usernsctl-exec`` process, keeps each namespace alive. A store
(:mod:`usernsctl._system.records`) contains a record of each namespace. A record is valid only while
the holder runs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from usernsctl import _core
from usernsctl._core.values import find_program
from usernsctl._lean import asdict, dataclass
from usernsctl._system.descriptors import Closing, above_stdio, receive, wait_readable
from usernsctl._system.processes import (
    ProcessIdentity,
    is_in_our_namespace,
    kill,
    name_of,
    parse_timestamp,
)
from usernsctl._system.records import RECORD, Directory, Entry, Store, TakenError, open_state
from usernsctl._system.target import OwnNamespaces
from usernsctl.commands.popen import DEVNULL, CompletedProcess, run
from usernsctl.errors import NamespaceError
from usernsctl.maps import Extent, IdMap, parse_map

STEP = "name"

_HOLDER_NAME = "usernsctl-hold"  # UN_HOLDER_NAME in csrc/programs/exec/exec.h.
# The process name of a holder until it changes the name to _HOLDER_NAME.
_STARTING_NAME = "usernsctl-exec"
# Timeout for a process to become a holder, in seconds.
_OPEN_SECONDS = 2
# Timeout for a killed holder to exit, in seconds.
_END_SECONDS = 10
# Interval between checks whether a process has become a holder, in seconds.
_NAP_SECONDS = 0.0002


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNamespace:
    """The record of a named namespace.

    :ivar pid: the pid of the holder.
    :ivar start_time: the start time of the holder, in clock ticks after boot (proc_pid_stat(5)).
    :ivar boot_id: the id of the boot from which `start_time` counts.
    :ivar pid_namespace: the inode number of the PID namespace to which `pid` belongs.
    :ivar created: the time at which the namespace was created, in seconds since 1970.
    :ivar namespaces: the kinds of the namespaces that the holder keeps alive, including ``"user"``.
    :ivar uid: the map of uids.
    :ivar gid: the map of gids.
    :ivar network: ``"private"`` if the namespace has a private network, else an empty string.
    :ivar notice: the text on standard error of the usernsctl-exec that created the namespace, such
        as a warning; often empty.
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
    network: str
    notice: str

    def processes(self) -> int:
        """Return the number of processes in the user namespace, not counting the holder."""
        count = 0
        try:
            inode = os.stat(f"/proc/{self.pid}/ns/user").st_ino
        except OSError:  # The holder has exited or is not ready yet.
            return count
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and int(entry) != self.pid:
                with contextlib.suppress(OSError):
                    count += os.stat(f"/proc/{entry}/ns/user").st_ino == inode
        return count

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """Check at the start and at the end of a ``with`` block that the holder runs.

        :raises NamespaceError: the holder has exited.
        :raises ForeignProcessError: the holder is in a namespace that this user did not create.
        """
        with self._open_holder() as pidfd:
            if pidfd is not None:
                yield
                # If the process of the pidfd still runs, the pid was not reused during the block.
                if not wait_readable(pidfd.number, timeout=0):
                    return
        raise _error(
            f"namespace {self.name!r} has ended, because its holder has ended", "target-gone"
        )

    @classmethod
    def describe(
        cls, name: str, pid: int, fds: Sequence[int], *, network: str = "", notice: str
    ) -> NamedNamespace:
        """Return a new record of the namespaces that a holder keeps alive.

        :param fds: descriptors of the holder's namespaces, in the order of
            :data:`_core.NAMESPACE_FILES`.
        """
        directory = f"/proc/{pid}"
        kinds = dict(zip(_core.ALL_NAMESPACES, _core.NAMESPACE_FILES, strict=True))
        return cls(
            name=name,
            **asdict(ProcessIdentity.of(pid)),
            created=time.time(),
            namespaces=tuple(
                kind
                for (kind, file), fd in zip(kinds.items(), fds, strict=True)
                if not os.path.samestat(os.fstat(fd), os.stat(f"/proc/self/ns/{file}"))
            ),
            uid=read_map(f"{directory}/uid_map"),
            gid=read_map(f"{directory}/gid_map"),
            network=network,
            notice=notice,
        )

    @classmethod
    def read(cls, name: str, directory: Directory) -> NamedNamespace:
        """Read the record of the namespace `name` from `directory`, its entry in the store."""
        return cls.from_json(name, directory.read(RECORD))

    @classmethod
    def from_json(cls, name: str, state: Mapping[str, Any]) -> NamedNamespace:
        """Create a record from the JSON object that :meth:`to_json` returned.

        :raises ValueError: a value in the object is invalid. If a field is missing or has the wrong
            type, the method raises another exception of ``usernsctl._system.records.NONSENSE``.
        """
        namespaces = tuple(state["namespaces"])
        if not set(namespaces) <= set(_core.ALL_NAMESPACES):
            raise ValueError("the kind of a namespace is unknown")
        return cls(
            name=name,
            **asdict(ProcessIdentity.from_json(state)),
            created=parse_timestamp(state["created"]),
            namespaces=namespaces,
            uid=tuple(Extent(*map(int, extent)) for extent in state["uid"]),
            gid=tuple(Extent(*map(int, extent)) for extent in state["gid"]),
            network=str(state.get("network", "")),
            notice=str(state["notice"]),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object that :meth:`from_json` parses."""
        extents = {"uid": list(map(list, self.uid)), "gid": list(map(list, self.gid))}
        return asdict(self) | extents

    def is_foreign(self) -> bool:
        """Return whether `pid` belongs to another PID namespace, such as a container's."""
        return self._identity().is_foreign()

    def is_alive(self) -> bool:
        """Return whether the holder runs; True if `pid` is a number in another PID namespace.

        A holder sets its process name once its creator has published the record. If the creator was
        killed before that, the process keeps its first name, exits soon, and is not a holder.

        :raises ForeignProcessError: the holder is in a namespace that this user did not create.
        """
        if self.is_foreign():
            return True
        with self._open_holder() as pidfd:
            return pidfd is not None

    def discard(self) -> None:
        """Kill the holder, and wait until it has exited.

        If the holder is PID 1 of a PID namespace, it exits only after all other processes of that
        namespace. Root in the namespace can block the exit of such a process by a FUSE filesystem.

        :raises NamespaceError: the holder has not exited after 10 seconds.
        :raises ForeignProcessError: the holder is in a namespace that this user did not create.
        """
        with self._open_holder() as pidfd:
            if pidfd is None:
                return
            kill(pidfd.number)
            if not wait_readable(pidfd.number, timeout=_END_SECONDS):
                raise _error(
                    f"process {self.pid}, which holds namespace {self.name!r}, was killed, and has "
                    f"not ended after {_END_SECONDS} s"
                )

    @contextlib.contextmanager
    def _open_holder(self) -> Iterator[_core.Descriptor | None]:
        """Yield a pidfd of the holder, or ``None`` if the holder has exited."""
        identity = self._identity()
        pidfd = identity.open(lambda _: _may_be_holder(identity))
        try:
            yield None if pidfd is None or _is_other(self.pid) else pidfd
        finally:
            if pidfd is not None:
                pidfd.close()

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
    """Return false for a holder in a namespace that another user created, otherwise true.

    The function first waits while the process may still become a holder. The result is also true
    for a process that is not a holder; :meth:`NamedNamespace._open_holder` detects such a process.
    """
    deadline = time.monotonic() + _OPEN_SECONDS
    while _is_becoming_holder(process.pid) and process.is_running():
        if time.monotonic() > deadline:
            return _is_other(process.pid)
        time.sleep(_NAP_SECONDS)
    return _is_other(process.pid) or is_in_our_namespace(process.pid)


def _is_becoming_holder(pid: int) -> bool:
    """Return whether a process may still become a holder whose namespaces other processes can open.

    A process that still has its first process name, usernsctl-exec, may receive the message that
    makes it a holder, even if its creator was killed. A holder sets its process name shortly before
    other processes can open its namespaces.
    """
    name = name_of(pid)
    if name == _HOLDER_NAME:
        return not os.access(f"/proc/{pid}/ns/user", os.R_OK)
    return name == _STARTING_NAME


def read_map(path: str) -> tuple[Extent, ...]:
    """Read an id map from a file such as /proc/PID/uid_map (user_namespaces(7)).

    :raises OSError: the file can't be read.
    """
    with open(path) as file:
        return parse_map(file.read())


# Timeout for a holder to become ready, in seconds. It is long, because newuidmap may query a slow
# user database.
_READY_SECONDS = 30

_STORE = Store("the name of a namespace", NamedNamespace, lambda _: open_state("namespaces"))


def find_named(name: str) -> NamedNamespace:
    """Return the record of a named namespace.

    :raises NamespaceError: no namespace has that name, its holder is in another PID namespace, or
        its record can't be trusted.
    """
    with _open(name) as entry:
        return entry.record


def create_named(name: str, options: Iterable[str], network: Sequence[str] = ()) -> NamedNamespace:
    """Create a named namespace and its holder; return the record.

    :param options: the map and namespace options of ``usernsctl-exec``.
    :param network: the command of :func:`usernsctl.gvisor.launch.network.private_command` for a
        private network; empty otherwise.
    :raises NamespaceError: the name is malformed or taken, or the namespace can't be created.
    """
    found = _find(name)
    if found is None:
        with (
            _Holder(options, network) as holder,
            contextlib.suppress(TakenError),
            _STORE.draft(name) as entry,
        ):
            return holder.keep(entry)
    else:
        with found:
            pass
    remedy = f"usernsctl ns remove {name}    # or choose another name"
    raise _error(f"a namespace {name!r} exists already", "name-taken", remedy)


@contextlib.contextmanager
def open_or_create(name: str, options: Iterable[str]) -> Iterator[NamedNamespace]:
    """Lock a named namespace during a ``with`` block, and yield its record.

    If the namespace does not exist, the function creates it first. Any number of processes may call
    this function at the same time.

    :param options: see :func:`create_named`; ignored if the namespace exists.
    :raises NamespaceError: as :func:`create_named` does, except if the name is taken.
    """
    while (found := _find(name)) is None:
        # Store.draft() locks the entry only after newuidmap has run. If several processes create
        # the namespace at the same time, one process publishes its namespace. The others then find
        # that namespace in the next iteration.
        with (
            _Holder(options) as holder,
            contextlib.suppress(TakenError),
            _STORE.draft(name) as entry,
        ):
            created = holder.keep(entry)
            try:
                yield created
            except BaseException:
                # The caller failed to open the new namespace.
                _remove(entry)
                raise
            return
    with found:
        yield found.record


def list_named() -> list[NamedNamespace]:
    """Return the records of all named namespaces of this user; remove records of dead holders.

    Namespaces whose holders are in another PID namespace are omitted.

    :raises NamespaceError: the state directory can't be trusted.
    """
    return [each for each in _STORE.list_records() if not each.is_foreign()]


def remove_named(name: str) -> None:
    """Kill the holder of a namespace, and remove the record.

    Processes in the namespace keep running, but the kernel kills those that are in the holder's PID
    namespace.

    :raises NamespaceError: no namespace has that name, or its holder is in another PID namespace.
    """
    with _open(name) as entry:
        _remove(entry)


def options_of(idmap: IdMap, namespaces: Iterable[str]) -> list[str]:
    """Return the options of ``usernsctl-exec`` that request an id map and namespaces."""
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


def _remove(entry: Entry[NamedNamespace]) -> None:
    """Kill the holder of a namespace, and remove the record."""
    entry.record.discard()
    entry.remove()


def _find(name: str) -> Entry[NamedNamespace] | None:
    """Return the locked entry of a namespace, or ``None`` if no namespace has this name.

    The caller must close the entry.

    :raises NamespaceError: the holder is in another PID namespace, or the record is invalid.
    """
    found = _STORE.find(name)
    if found is not None and found.record.is_foreign():
        with found:
            raise _error(
                f"the namespace {name!r} is in another PID namespace, such as another container's",
                "name-taken",
                "choose another name, or set XDG_RUNTIME_DIR to a directory of this container's "
                "own",
            )
    return found


def _open(name: str) -> Entry[NamedNamespace]:
    """Return the locked entry of a namespace; the caller must close the entry.

    :raises NamespaceError: as :func:`_find` does, or no namespace has that name.
    """
    found = _find(name)
    if found is None:
        remedy = f"usernsctl ns create {name}    # or another name: usernsctl ns list"
        raise _error(f"there is no namespace {name!r}", "no-such-namespace", remedy)
    return found


class _Holder(Closing):
    """A process that keeps a namespace alive. After :meth:`keep`, it survives its creator."""

    def __init__(self, options: Iterable[str], network: Sequence[str] = ()) -> None:
        """Start the process, and wait until its namespaces and id maps are set up.

        :param network: see :func:`create_named`.
        :raises NamespaceError: the namespace can't be created.
        """
        with NamespaceError.instead("the process that holds the namespace", step=STEP):
            self._begin([*options, "--", *network] if network else options)
        self._network = "private" if network else ""

    def _begin(self, options: Iterable[str]) -> None:
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, contextlib.ExitStack() as above:
                given = above_stdio(theirs.fileno(), above)
                started = run(
                    [_holder_program(), f"--hold={given}", *options],
                    namespace=OwnNamespaces(),
                    stdin=DEVNULL,
                    capture_output=True,
                    text=True,
                    # Pass only PATH, because all processes in the namespace may read the holder's
                    # environment.
                    env={name: os.environ[name] for name in ("PATH",) if name in os.environ},
                    pass_fds=[given],
                )
            self._pid, self._fds = _wait_until_ready(self._connection, started)
        except BaseException:
            self._connection.close()
            raise
        self._notice = started.stderr.strip()

    def keep(self, entry: Entry[NamedNamespace]) -> NamedNamespace:
        """Publish and return the namespace's record; make the holder independent of this process.

        :raises NamespaceError: the holder has exited, or other processes can't open its namespaces.
        """
        name = entry.name.removeprefix(".")
        with NamespaceError.instead(f"the namespace {name!r}", step=STEP):
            entry.record = NamedNamespace.describe(
                name, self._pid, self._fds, network=self._network, notice=self._notice
            )
        try:
            entry.publish()
            self._confirm(name)
        except BaseException:
            # Close the connection first: a holder that has not received the message exits then, and
            # discard() kills one that has.
            self._connection.close()
            _remove(entry)
            raise
        return entry.record

    def _confirm(self, name: str) -> None:
        """Tell the holder to outlive this process, and wait until others can open its namespaces.

        :raises NamespaceError: as :meth:`keep` does.
        """
        with NamespaceError.instead(f"the holder of the namespace {name!r}", step=STEP):
            self._connection.send(b"+", socket.MSG_NOSIGNAL)
            # The holder closes the connection once it is ready, or sends an error.
            answer = self._connection.recv(4096)
        word, _, rest = answer.decode(errors="replace").partition(" ")
        if word == "error":
            raise _reported_error(rest)

    def close(self) -> None:
        """Close the connection. The holder then exits, unless :meth:`keep` was called."""
        for fd in self._fds:
            os.close(fd)
        self._connection.close()


def _wait_until_ready(ours: socket.socket, started: CompletedProcess[str]) -> tuple[int, list[int]]:
    """Wait until the holder is ready; return its pid, and descriptors that the caller closes.

    :raises NamespaceError: the namespace can't be created.
    """
    ours.settimeout(_READY_SECONDS)
    pid, fds = None, list[int]()
    with contextlib.suppress(TimeoutError):
        while pid is None or not fds:
            data, received = receive(ours, 4096, len(_core.NAMESPACE_FILES))
            word, _, rest = data.decode(errors="replace").partition(" ")
            if word == "error":
                raise _reported_error(rest)
            # Accept the pid and the descriptors in any order, because two processes send them.
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
    raise _error(f"the process that holds the namespace did not start: {told}")


def _reported_error(text: str) -> NamespaceError:
    """Return the exception for an error that un_hold_report() (csrc/programs/exec/hold.c) sent."""
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
