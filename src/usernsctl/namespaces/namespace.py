"""Namespaces that descriptors keep alive for any number of commands."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn, Self, Unpack, overload

from usernsctl import _core
from usernsctl._lean import LateModule, replace
from usernsctl._system.descriptors import Closing, Shared
from usernsctl._system.target import ENTERABLE, KEPT, Target, make_target, selected
from usernsctl.commands import popen as commands
from usernsctl.commands.arguments import Args, StrOrBytesPath, check_keywords
from usernsctl.errors import NamespaceError, UsernsError
from usernsctl.maps import AnyIdMap, Plan, decide, plan, requested, warn_single_id
from usernsctl.namespaces import named
from usernsctl.namespaces.named import NamedNamespace

if TYPE_CHECKING:
    from usernsctl.commands import aio, options
else:
    # Import asyncio only when it is needed, because its import takes longer than all of this
    # package.
    aio = LateModule("usernsctl.commands.aio")
    options = LateModule("usernsctl.commands.options")

# NS_GET_NSTYPE of ioctl_nsfs(2), which returns the kind of a namespace as a CLONE_NEW* flag.
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWUSER = 0x10000000


def enter(idmap: AnyIdMap, **arguments: Unpack[options.EnterOptions]) -> Plan:
    """Move this process into a new user namespace, and into new namespaces of the requested kinds.

    The process must have only one thread, unlike callers of :func:`usernsctl.run` and
    :class:`usernsctl.Popen`. A process can't leave the namespaces. If an exception is raised, the
    process should exit, because it may be inside some of the namespaces.

    The process keeps its memory and its descriptors, so it becomes undumpable
    (PR_SET_DUMPABLE(2const)): processes in the namespaces can't trace it or read its
    /proc/PID/environ, and a crash leaves no core file. As a consequence, root owns the process's
    files in /proc, and the process can't write /proc/self/oom_score_adj, for example. execve(2)
    makes the process dumpable again.

    :param idmap: the id map of the new user namespace; see :class:`usernsctl.Popen`.
    :param arguments: `mount`, `net`, `ipc`, `uts` and `cgroup`, each true to create a namespace of
        that kind; and `propagation`, the propagation of the mounts in a new mount namespace.
    :returns: the plan of the id map.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises MapError: the id map is malformed.
    :raises PlanError: the caller is not permitted to use the id map.
    :raises NamespaceError: the namespaces could not be created; cause ``"multithreaded"`` if the
        process has several threads.
    """
    others: dict[str, Any] = {**arguments}
    check_keywords("enter", others, (*ENTERABLE, "idmap", "propagation"))
    names = selected(others, ENTERABLE)
    propagation = others.pop("propagation", "private")
    wanted = requested(idmap)
    planned = plan(wanted)
    make_target(names, idmap=wanted, propagation=propagation).enter()
    return planned


class Namespace(Closing):
    """A user namespace, and other namespaces that belong to it, kept open without a process.

    Several threads may start commands in a Namespace at the same time. The kernel keeps the
    namespaces until the Namespace is closed and no process is inside. A Namespace is a context
    manager. A Namespace that is garbage collected is closed with a :class:`ResourceWarning`. A
    Namespace can't be pickled. To share it with another process, use a named namespace
    (:meth:`open_or_create`), or send the descriptor :meth:`fileno` to that process.

    The class methods create and find namespaces; the constructor raises :class:`TypeError`. On a
    closed Namespace, all methods but :meth:`close`, :meth:`has` and :attr:`closed` raise
    :class:`ValueError`.
    """

    _what = "the namespace"

    _fds: list[int]
    _shared: Shared
    _identity: _core.Setup

    def __init__(self) -> None:
        raise TypeError(
            "Namespace() can't be called: use create(), open(), open_or_create(), from_pid() "
            "or from_fd()"
        )

    @classmethod
    def _holding(cls, owner: _core.NamespaceFds, identity: _core.Setup) -> Self:
        """Return a Namespace that takes ownership of the descriptors of `owner`.

        :param identity: the uid, the gid and the groups of commands inside.
        """
        namespace = cls.__new__(cls)
        namespace._fds = owner.numbers()
        namespace._shared = _SharedFds(owner)
        namespace._identity = identity
        return namespace

    @classmethod
    def create(cls, idmap: AnyIdMap | None = None, **namespaces: Unpack[options.KeptKinds]) -> Self:
        """Create a user namespace, and other namespaces that belong to it.

        A descriptor can't keep a PID namespace alive, because the namespace ends when its first
        process exits. To have a PID namespace, use :meth:`open_or_create`, or give each command a
        new PID namespace: ``ns.run(..., pid=True)``.

        :param idmap: the id map of the new user namespace; see :class:`usernsctl.Popen`.
        :param namespaces: `mount`, `net`, `ipc`, `uts`, `cgroup` and `time`, each true to create a
            namespace of that kind.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises MapError: the id map is malformed.
        :raises PlanError: the caller is not permitted to use the id map.
        :raises NamespaceError: the namespaces could not be created.
        """
        others: dict[str, Any] = {**namespaces}
        check_keywords("Namespace.create", others, (*KEPT, "idmap"))
        names = selected(others, KEPT)
        planned = decide(idmap)
        return cls._holding(_core.create_namespaces(planned, names), planned.setup())

    @classmethod
    def from_pid(cls, pid: int) -> Self:
        """Open those namespaces of a process that are not also the caller's namespaces.

        Commands run with the caller's ids if the user namespace maps these ids, else with uid 0 and
        gid 0. If setgroups(2) is permitted, commands have no supplementary groups.

        :param pid: the pid of the process in the caller's PID namespace.
        :raises TypeError: `pid` is not a number.
        :raises NamespaceError: no process has that pid, the process's user namespace is not a
            descendant of the caller's, or the caller may not open the process's namespaces.
        """
        if isinstance(pid, bool) or not isinstance(pid, int):
            raise TypeError(f"pid must be a number, not {pid!r}")
        directory: list[int] = []
        try:
            with _reported(f"process {pid}"):
                # Open /proc/PID only once. Even if the pid is reused, the descriptor never refers
                # to another process. extend() stores the descriptor before a signal handler can
                # raise an exception.
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                directory.extend(map(os.open, [f"/proc/{pid}"], [flags]))
            fds = _core.NamespaceFds()
            try:
                _open_foreign(fds, pid, *directory)
                return cls._holding(fds, _identity(pid, *directory))
            except BaseException:
                # Close `fds` now, because the traceback of the error keeps `fds` alive.
                fds.close()
                raise
        finally:
            for fd in directory:
                os.close(fd)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Open the user namespace that a descriptor refers to.

        The id map can't be read from a descriptor. Commands run with uid 0 and gid 0, so both must
        be mapped.

        :param fd: a descriptor of /proc/PID/ns/user, or a descriptor from ioctl_nsfs(2). The
            descriptor is duplicated, so the caller must still close it.
        :raises TypeError: `fd` is neither a number nor an object with a descriptor.
        :raises NamespaceError: `fd` is not a descriptor of a user namespace.
        """
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except (OSError, ValueError, OverflowError):  # `fd` is no file of nsfs, negative, or huge.
            kind = 0
        if kind != _CLONE_NEWUSER:
            raise NamespaceError(
                f"descriptor {fd} is not a user namespace: open /proc/PID/ns/user", step="setns"
            )
        fds = _core.NamespaceFds()
        fds.take(0, fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)
        return cls._holding(fds, _core.Setup(uid=0, gid=0))

    @classmethod
    def open(cls, name: str) -> Self:
        """Open a named namespace. ``usernsctl ns list`` prints the names.

        :param name: 1 to 64 letters, digits, dots, dashes and underscores.
        :raises NamespaceError: no namespace has that name (cause ``"no-such-namespace"``), or the
            state directory can't be trusted, because other users may write to it.
        """
        return cls.of_holder(named.find_named(name))

    @classmethod
    def open_or_create(
        cls, name: str, idmap: AnyIdMap | None = None, **namespaces: Unpack[options.Kinds]
    ) -> Self:
        """Open a named namespace; create it if no namespace has that name.

        If several processes call this method at the same time, one process creates the namespace,
        and all processes open it. The namespace outlives these processes. ``usernsctl ns remove
        NAME`` removes it.

        :param name: 1 to 64 letters, digits, dots, dashes and underscores.
        :param idmap: the id map of a new namespace; see :class:`usernsctl.Popen`.
        :param namespaces: the arguments of :meth:`create`, and `pid`.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises NamespaceError: the namespaces could not be created, or the state directory can't be
            trusted, because other users may write to it.
        """
        others: dict[str, Any] = {**namespaces}
        check_keywords("Namespace.open_or_create", others, (*_core.NAMESPACES, "idmap"))
        names = selected(others)
        wanted = requested(idmap)
        with named.open_or_create(name, named.options_of(wanted, names)) as known:
            namespace = cls.of_holder(known)
        # `notice` is the output of the usernsctl-exec that created the namespace.
        _, is_single, reason = known.notice.partition("--allow-single-id allows: ")
        if is_single and wanted.allow_single_id:
            warn_single_id(reason.split("\n")[0])
        return namespace

    @classmethod
    def of_holder(cls, known: NamedNamespace) -> Self:
        """Open the namespaces of the process that keeps a named namespace alive.

        :meta private:
        :raises NamespaceError: the process has exited.
        :raises ForeignProcessError: the process is in a namespace that this user did not create.
        """
        with contextlib.ExitStack() as undo:
            with known.alive():
                namespace = cls.from_pid(known.pid)
                undo.callback(namespace.close)
            undo.pop_all()
        return namespace

    def target(self) -> Target:
        """Return the Target for a command: the namespaces to join, and the command's settings.

        :meta private:
        """
        setup = replace(self._identity)
        # Pass the working directory to the command, because setns(2) changes the working directory
        # to the root directory when a process joins a mount namespace.
        if self._fds[1] >= 0:
            with contextlib.suppress(FileNotFoundError):
                setup.cwd = os.getcwdb()
        return Target(join=self._fds, setup=setup, owner=self, keep_open=self._shared.use())

    @overload
    def popen(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.PopenText],
    ) -> commands.Popen[str]: ...

    @overload
    def popen(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.PopenEncoded],
    ) -> commands.Popen[str]: ...

    @overload
    def popen(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.PopenBytes],
    ) -> commands.Popen[bytes]: ...

    @overload
    def popen(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.PopenEither],
    ) -> commands.Popen[Any]: ...

    def popen(
        self, args: Args, bufsize: int = -1, *positional: Any, **arguments: Any
    ) -> commands.Popen[Any]:
        """Start a command in the namespaces, like :class:`usernsctl.Popen` without `idmap`.

        :param arguments: the arguments of :class:`usernsctl.Popen`, except `idmap`.
        :raises ValueError: the Namespace is closed, or `idmap` is given.
        :raises UsernsError: as :class:`usernsctl.Popen` does.
        """
        return commands.Popen[Any](args, bufsize, *positional, namespace=self, **arguments)

    @overload
    def run(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.RunText],
    ) -> commands.CompletedProcess[str]: ...

    @overload
    def run(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.RunEncoded],
    ) -> commands.CompletedProcess[str]: ...

    @overload
    def run(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.RunBytes],
    ) -> commands.CompletedProcess[bytes]: ...

    @overload
    def run(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.RunEither],
    ) -> commands.CompletedProcess[Any]: ...

    def run(
        self, args: Args, bufsize: int = -1, *positional: Any, **arguments: Any
    ) -> commands.CompletedProcess[Any]:
        """Run a command in the namespaces and wait, like :func:`usernsctl.run` without `idmap`.

        :param arguments: the arguments of :func:`usernsctl.run`, except `idmap`.
        :raises ValueError: the Namespace is closed, or `idmap` is given.
        :raises TimeoutExpired: as :func:`usernsctl.run` does.
        :raises CalledProcessError: as :func:`usernsctl.run` does.
        :raises UsernsError: as :func:`usernsctl.run` does.
        """
        return commands.run(args, bufsize, *positional, namespace=self, **arguments)

    @overload
    def check_output(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.OutputText],
    ) -> str: ...

    @overload
    def check_output(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.OutputEncoded],
    ) -> str: ...

    @overload
    def check_output(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.OutputBytes],
    ) -> bytes: ...

    @overload
    def check_output(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        **arguments: Unpack[options.OutputEither],
    ) -> Any: ...

    def check_output(
        self, args: Args, bufsize: int = -1, *positional: Any, **arguments: Any
    ) -> Any:
        """Run a command in the namespaces; return its output, like :func:`usernsctl.check_output`.

        :param arguments: the arguments of :func:`usernsctl.check_output`, except `idmap`.
        :raises ValueError: the Namespace is closed, or `idmap` is given.
        :raises TimeoutExpired: as :func:`usernsctl.run` does.
        :raises CalledProcessError: as :func:`usernsctl.check_output` does.
        :raises UsernsError: as :func:`usernsctl.run` does.
        """
        return commands.check_output(args, bufsize, *positional, namespace=self, **arguments)

    async def create_subprocess_exec(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        **arguments: Unpack[options.StreamOptions],
    ) -> aio.Process:
        """Start a command in the namespaces; see :func:`usernsctl.create_subprocess_exec`.

        :param arguments: the arguments of :func:`usernsctl.create_subprocess_exec`, except `idmap`.
        :raises ValueError: the Namespace is closed, or text was requested.
        :raises UsernsError: as :class:`usernsctl.Popen` does.
        """
        return await aio.create_subprocess_exec(program, *args, namespace=self, **arguments)

    def spawn(self, args: Args, **arguments: Unpack[options.SpawnOptions]) -> commands.Child:
        """Start a command in the namespaces without a Popen object, like :func:`usernsctl.spawn`.

        :param arguments: the arguments of :func:`usernsctl.spawn`, except `idmap`.
        :raises ValueError: the Namespace is closed; or a stream is PIPE or STDOUT, or is not a
            descriptor.
        :raises UsernsError: as :class:`usernsctl.Popen` does.
        """
        return commands.spawn(args, namespace=self, **arguments)

    def enter(self) -> None:
        """Move this process, which must have only one thread, into the namespaces.

        A process can't leave the namespaces. The process becomes undumpable before it enters them;
        see :func:`usernsctl.enter`. Before this call, close all descriptors that must not be used
        inside.

        :raises NamespaceError: the namespaces could not be entered; cause ``"multithreaded"`` if
            the process has several threads.
        :raises ValueError: the Namespace is closed.
        """
        self.target().enter()

    def exec(self, args: Args, **arguments: Unpack[options.ExecOptions]) -> NoReturn:
        """Replace this process with a command in the namespaces, like :func:`usernsctl.exec`.

        The Namespace must not contain a PID namespace, which only children of a process can enter.

        :param arguments: the arguments of :func:`usernsctl.exec`, except `idmap`.
        :raises ValueError: the Namespace is closed.
        :raises UsernsError: as :func:`usernsctl.exec` does.
        """
        commands.exec(args, namespace=self, **arguments)

    def has(self, kind: str) -> bool:
        """Return whether this Namespace contains a namespace of a kind; False once it is closed.

        :param kind: ``"user"``, ``"mount"``, ``"net"``, ``"pid"``, ``"ipc"``, ``"uts"``,
            ``"cgroup"`` or ``"time"``.
        :raises ValueError: `kind` is not one of these names.
        """
        if kind not in _core.ALL_NAMESPACES:
            known = ", ".join(_core.ALL_NAMESPACES)
            raise ValueError(f"kind must be one of {known}, not {kind!r}")
        return not self.closed and self._fds[_core.ALL_NAMESPACES.index(kind)] >= 0

    def fileno(self) -> int:
        """Return the descriptor of the user namespace; :meth:`close` closes the descriptor.

        :raises ValueError: the Namespace is closed.
        """
        self._check_open()
        return self._fds[0]

    @property
    def closed(self) -> bool:
        """Return whether the Namespace is closed."""
        return self._shared.closed

    def close(self) -> None:
        """Close the descriptors of the namespaces once no thread uses them to start a command.

        Does not wait for these threads. Safe to call from several threads.
        """
        self._shared.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the namespace is closed")

    def __enter__(self) -> Self:
        self._check_open()
        return super().__enter__()

    def __repr__(self) -> str:
        if self.closed:
            return "<Namespace: closed>"
        return f"<Namespace: {', '.join(filter(self.has, _core.ALL_NAMESPACES))}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Namespace can't be pickled, because of its descriptors; use a named one")


class _SharedFds(Shared):
    """The descriptors of a Namespace. A thread may close them while other threads use them."""

    def __init__(self, owner: _core.NamespaceFds) -> None:
        """Keep a reference to `owner`, whose finaliser closes the descriptors."""
        self._owner = owner
        super().__init__("the namespace", owner.numbers())

    def _release(self) -> None:
        self._owner.close()


@contextlib.contextmanager
def _reported(what: str) -> Iterator[None]:
    """Convert an OSError of the ``with`` block to a NamespaceError about `what`."""
    try:
        yield
    except OSError as error:
        cause = "target-gone" if error.errno in (errno.ESRCH, errno.ENOENT) else None
        raise NamespaceError.from_os_error(error, what, step="setns", cause=cause) from error


def _open_foreign(fds: _core.NamespaceFds, pid: int, directory: int) -> None:
    """Open those namespaces of a process that are not also the caller's, through /proc."""
    for index, name in enumerate(_core.NAMESPACE_FILES):
        with _reported(f"the {name} namespace of process {pid}"):
            theirs = os.stat(f"ns/{name}", dir_fd=directory)
            if not os.path.samestat(theirs, os.stat(f"/proc/self/ns/{name}")):
                open_there = functools.partial(os.open, dir_fd=directory)
                fds.take(index, open_there, f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    if fds.numbers()[0] < 0:
        raise NamespaceError(f"process {pid} is in this process's own user namespace", step="setns")


def _identity(pid: int, directory: int) -> _core.Setup:
    """Return the uid, the gid and the groups for commands in the namespaces of a process."""
    try:
        return _core.setup_to_join(directory)
    except UsernsError as error:
        raise NamespaceError(
            f"process {pid}: can't compare its ids with this process's ids: {error.reason}",
            step="setns",
            errno=error.errno or 0,
            cause="join-denied",
        ) from error
