"""Namespaces that have a name: any process of the same user finds them.

A holder, a copy of the native prelude that sleeps, keeps each of them. What is known of it lies in
a directory that only the user can write, under a lock on that directory; it is believed only as
long as the holder is alive and is the same process as then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usernsctl import _core
from usernsctl.errors import NamespaceError
from usernsctl.idmap import Extent, IdMap
from usernsctl.namespace import Namespace
from usernsctl.prelude import prelude_path

STEP = "name"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_SUFFIX = ".json"
# How long a holder may take to get ready; newuidmap may ask a slow user database.
_READY_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNamespace:
    """What is known of a named namespace.

    :ivar pid: the process that holds it.
    :ivar start_time: when that process started, in clock ticks after boot (proc_pid_stat(5)).
    :ivar boot_id: the boot that `start_time` counts from.
    :ivar created: when it was made, in seconds since 1970.
    :ivar namespaces: the kinds that it has of its own, ``"user"`` among them.
    :ivar uid: its map of uids, and so `gid`.
    """

    name: str
    pid: int
    start_time: int
    boot_id: str
    created: float
    namespaces: tuple[str, ...]
    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]

    def processes(self) -> int:
        """How many processes are in it, the holder left out."""
        inode = os.stat(f"/proc/{self.pid}/ns/user").st_ino
        count = 0
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and int(entry) != self.pid:
                with contextlib.suppress(OSError):
                    count += os.stat(f"/proc/{entry}/ns/user").st_ino == inode
        return count

    def open(self) -> Namespace:
        """Hold it by descriptors, from whatever process this is.

        :raises NamespaceError: it is gone.
        """
        namespace = Namespace.from_pid(self.pid)
        if not _is_alive(self):
            namespace.close()
            raise _error(f"namespace {self.name!r} is gone: its holder has ended", "target-gone")
        return namespace


def open_named(name: str) -> Namespace:
    """Hold a named namespace by descriptors.

    :raises NamespaceError: there is none of that name, or its state can't be trusted.
    """
    _check_name(name)
    with _locked_directory() as directory:
        found = _read_live(directory, name)
        if found is None:
            remedy = f"usernsctl ns create {name}"
            raise _error(f"there is no namespace {name!r}", "no-such-namespace", remedy)
        return found.open()


def create_named(name: str, options: Iterable[str]) -> NamedNamespace:
    """Make a namespace and a process that holds it.

    :param options: the map and namespace options of ``usernsctl-exec``.
    :raises NamespaceError: the name is malformed or taken, or the namespace can't be had.
    """
    _check_name(name)
    with _locked_directory() as directory:
        if _read_live(directory, name) is not None:
            remedy = f"usernsctl ns remove {name}, or choose another name"
            raise _error(f"there is a namespace {name!r} already", "name-taken", remedy)
        return _create(directory, name, options)


def open_or_create(name: str, options: Iterable[str]) -> Namespace:
    """Hold a named namespace, which is made if there is none; any number may call it at once.

    :param options: as :func:`create_named` has them; not looked at if there is one.
    :raises NamespaceError: as :func:`create_named` does, but for a name that is taken.
    """
    _check_name(name)
    with _locked_directory() as directory:
        found = _read_live(directory, name) or _create(directory, name, options)
        return found.open()


def list_named() -> list[NamedNamespace]:
    """All named namespaces of this user; what dead holders left is cleaned away.

    :raises NamespaceError: the state directory can't be trusted.
    """
    with _locked_directory() as directory:
        names = sorted(entry.name.removesuffix(_SUFFIX) for entry in directory.glob(f"*{_SUFFIX}"))
        found = (_read_live(directory, name) for name in names)
        return [namespace for namespace in found if namespace is not None]


def remove_named(name: str) -> None:
    """End the holder and forget the name. Processes inside stay there, but for those in a PID
    namespace of it, which the kernel kills.

    :raises NamespaceError: there is none of that name.
    """
    _check_name(name)
    with _locked_directory() as directory:
        found = _read_live(directory, name)
        if found is None:
            raise _error(f"there is no namespace {name!r}", "no-such-namespace")
        _kill(found)
        _file(directory, name).unlink()


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


def _error(reason: str, cause: str | None = None, remedy: str | None = None) -> NamespaceError:
    return NamespaceError(reason, step=STEP, cause=cause, remedy=remedy)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 80 else f"{name[:80]}..."
        raise _error(
            f"{shown!r} is no name for a namespace: it must be 1 to 64 letters, digits, dots, "
            "dashes and underscores, the first a letter, a digit or an underscore",
            "name-invalid",
        )


def _state_directory() -> Path:
    """Where it is: $XDG_RUNTIME_DIR/usernsctl, or a directory of the user's own in /tmp."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime, "usernsctl")
    return Path(tempfile.gettempdir(), f"usernsctl-{os.geteuid()}")


@contextlib.contextmanager
def _locked_directory() -> Iterator[Path]:
    """The state directory, which nobody else of this user reads or changes meanwhile.

    :raises NamespaceError: it can't be made, or somebody else could write there.
    """
    directory = _state_directory()
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise NamespaceError(
            f"{directory}: {error.strerror}",
            step=STEP,
            errno=error.errno or 0,
            filename=str(directory),
            cause="state-directory-unusable",
            remedy="set XDG_RUNTIME_DIR to a directory that is yours",
        ) from error
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise _error(
                f"{directory} must belong to uid {os.geteuid()} and be closed to others; it "
                f"belongs to uid {status.st_uid}, with mode {stat.S_IMODE(status.st_mode):o}",
                "state-directory-unusable",
                f"chmod 700 {directory}, or set XDG_RUNTIME_DIR to a directory that is yours",
            )
        # The lock ends with the descriptor, however this process ends.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(descriptor)


def _file(directory: Path, name: str) -> Path:
    return directory / f"{name}{_SUFFIX}"


def _read_live(directory: Path, name: str) -> NamedNamespace | None:
    """What is known of a name, if its holder is alive; else it is forgotten."""
    file = _file(directory, name)
    try:
        found = _from_json(name, json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        # Its writer was killed in the middle, and the holder ended for want of an answer.
        found = None
    if found is not None and _is_alive(found):
        return found
    file.unlink(missing_ok=True)
    return None


def _from_json(name: str, state: Mapping[str, Any]) -> NamedNamespace:
    return NamedNamespace(
        name=name,
        pid=int(state["pid"]),
        start_time=int(state["start_time"]),
        boot_id=str(state["boot_id"]),
        created=float(state["created"]),
        namespaces=tuple(state["namespaces"]),
        uid=tuple(Extent(*extent) for extent in state["uid"]),
        gid=tuple(Extent(*extent) for extent in state["gid"]),
    )


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> int:
    """proc_pid_stat(5): field 22; the second one, the name, may hold blanks and parentheses."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    if fields[0] in "ZX":
        raise ProcessLookupError(f"process {pid} has ended")
    return int(fields[19])


def _is_alive(found: NamedNamespace) -> bool:
    """Whether its holder is the process that it was: a pid alone may have been used again."""
    try:
        return found.boot_id == _boot_id() and found.start_time == _start_time(found.pid)
    except OSError:
        return False


def _kill(found: NamedNamespace) -> None:
    try:
        pidfd = os.pidfd_open(found.pid)
    except ProcessLookupError:
        return
    try:
        if _is_alive(found):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


def _create(directory: Path, name: str, options: Iterable[str]) -> NamedNamespace:
    """Start a holder, write down what it is, and only then let it stay.

    If this process ends before that, the holder sees its connection closed and ends too.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            started = subprocess.run(
                [prelude_path(), *options, f"--hold={theirs.fileno()}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                pass_fds=[theirs.fileno()],
            )
        pid = _wait_until_ready(ours, started)
        made = _describe(name, pid)
        file = _file(directory, name)
        file.touch(mode=0o600)
        file.write_text(json.dumps(_to_json(made)))
        ours.send(b"+")
    return made


def _wait_until_ready(ours: socket.socket, started: subprocess.CompletedProcess[str]) -> int:
    """Hear the holder out; its pid.

    :raises NamespaceError: it failed.
    """
    ours.settimeout(_READY_SECONDS)
    pid = None
    with contextlib.suppress(TimeoutError):
        while message := ours.recv(4096).decode(errors="replace"):
            word, _, rest = message.partition(" ")
            if word == "error":
                raise _reported_error(rest)
            if word == "pid":
                pid = int(rest)
            if word == "ready":
                # "pid" is sent by another process, and may come later.
                return pid if pid is not None else int(ours.recv(4096).split()[1])
    told = started.stderr.strip().split("\n")[0] or f"exit status {started.returncode}"
    raise _error(f"the holder did not get ready: {told}")


def _reported_error(text: str) -> NamespaceError:
    """What un_hold_report() in csrc/hold.c wrote."""
    step, number, cause_id, detail = [*text.split(" ", 3), ""][:4]
    errno = int(number)
    said = os.strerror(errno) if errno else ""
    cause = None if cause_id == "-" else cause_id
    known = _core.cause(cause)
    return NamespaceError(
        ": ".join(part for part in (detail, said) if part),
        step=step,
        errno=errno,
        cause=cause,
        remedy=known.remedy if known else None,
    )


def _describe(name: str, pid: int) -> NamedNamespace:
    directory = f"/proc/{pid}"
    kinds = dict(zip(_core.ALL_NAMESPACES, _core.NAMESPACE_FILES, strict=True))
    return NamedNamespace(
        name=name,
        pid=pid,
        start_time=_start_time(pid),
        boot_id=_boot_id(),
        created=time.time(),
        namespaces=tuple(
            kind
            for kind, file in kinds.items()
            if not os.path.samefile(f"{directory}/ns/{file}", f"/proc/self/ns/{file}")
        ),
        uid=_read_map(f"{directory}/uid_map"),
        gid=_read_map(f"{directory}/gid_map"),
    )


def _read_map(path: str) -> tuple[Extent, ...]:
    lines = Path(path).read_text().splitlines()
    return tuple(Extent(*map(int, line.split())) for line in lines)


def _to_json(made: NamedNamespace) -> dict[str, Any]:
    state = asdict(made)
    state["uid"] = [list(extent) for extent in made.uid]
    state["gid"] = [list(extent) for extent in made.gid]
    return state
