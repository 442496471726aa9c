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
from collections.abc import Iterable, Iterator

from usernsctl import _core, _programs
from usernsctl._system.descriptors import Closing, receive
from usernsctl._system.proc import Stranger
from usernsctl._system.state import NAME, NAME_RULE, Directory, locked_directory, untrue
from usernsctl.errors import NamespaceError
from usernsctl.maps import IdMap
from usernsctl.namespaces.holder import STEP, NamedNamespace

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
def found_or_created(name: str, options: Iterable[str]) -> Iterator[NamedNamespace]:
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
            with contextlib.suppress(Stranger):
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
    return _programs.find("usernsctl-exec", "holds namespaces")


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
    except Stranger as error:
        raise untrue(f"{directory.path}/{_file(name)}", error.reason) from None
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
