"""Namespaces that are kept: made once, entered as often as wanted."""

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
from usernsctl.commands.arguments import Args, StrOrBytesPath
from usernsctl.commands.keywords import check_keywords
from usernsctl.errors import NamespaceError, UsernsError
from usernsctl.maps import AnyIdMap, Plan, decide, plan, requested, warn_single_id
from usernsctl.namespaces import named
from usernsctl.namespaces.named import NamedNamespace

if TYPE_CHECKING:
    from usernsctl.commands import aio, options
else:
    # asyncio takes longer to import than all of this package.
    aio = LateModule("usernsctl.commands.aio")
    options = LateModule("usernsctl.commands.options")

# ioctl_nsfs(2): which kind of namespace a descriptor is of, as a CLONE_NEW... flag.
_NS_GET_NSTYPE = 0xB703
_CLONE_NEWUSER = 0x10000000


def enter(idmap: AnyIdMap, **arguments: Unpack[options.EnterOptions]) -> Plan:
    """Move this process into a new user namespace, and into new ones of the kinds asked for.

    The process must have one thread only; :func:`usernsctl.run` and :class:`usernsctl.Popen` have
    no such limit. There is no way back, so a failure may leave the process in between: exit then.

    From then on the process is not dumpable (PR_SET_DUMPABLE(2const)), since it brings its memory
    and its descriptors along: nobody in there can trace it, nor read /proc/PID/environ of it, and
    it leaves no core. So it may not write files such as its own /proc/self/oom_score_adj, which are
    root's then. What it executes is a process like any other.

    :param idmap: the ids inside, as :class:`usernsctl.Popen` has it.
    :param arguments: ``mount=True``, and so on for `net`, `ipc`, `uts` and `cgroup`, and
        `propagation`: of the mounts in a new mount namespace.
    :returns: what was mapped, and who wrote it.
    :raises TypeError: there is another argument.
    :raises MapError: the map is malformed.
    :raises PlanError: the caller may not have the map.
    :raises NamespaceError: the kernel refused; cause ``"multithreaded"`` if there are threads.
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
    """A user namespace, and others that belong to it, held open by descriptors; no process.

    Any thread may start commands in it, at the same time as others. It lives until it is closed
    and no process is in it any more. It is a context manager. One that is forgotten is closed, with
    a :class:`ResourceWarning`. It can't be pickled: descriptors mean nothing to another process;
    name it (:meth:`open_or_create`), or pass :meth:`fileno` on.

    There is no constructor: the class methods make and find them. Once it is closed, everything but
    :meth:`close` and :attr:`closed` is a :class:`ValueError`.
    """

    _what = "the namespace"

    _fds: list[int]
    _shared: Shared
    _identity: _core.Setup

    def __init__(self) -> None:
        raise TypeError(
            "a Namespace is made by Namespace.create(), from_pid(), from_fd(), open() or "
            "open_or_create()"
        )

    @classmethod
    def _holding(cls, owner: _core.NamespaceFds, identity: _core.Setup) -> Self:
        """Take over descriptors from their owner.

        :param identity: the uid, the gid and the groups that commands have inside.
        """
        namespace = cls.__new__(cls)
        namespace._fds = owner.numbers()
        namespace._shared = _SharedFds(owner)
        namespace._identity = identity
        return namespace

    @classmethod
    def create(cls, idmap: AnyIdMap | None = None, **namespaces: Unpack[options.KeptKinds]) -> Self:
        """Make namespaces.

        A PID namespace can't be kept this way: it ends with its first process. Name it, or give
        each command one of its own: ``ns.run(..., pid=True)``.

        :param idmap: the ids inside, as :class:`usernsctl.Popen` has it; by default the caller is
            root there.
        :param namespaces: ``mount=True``, and so on for `net`, `ipc`, `uts`, `cgroup` and `time`:
            what it has besides its user namespace.
        :raises TypeError: there is another argument.
        :raises MapError: the map is malformed.
        :raises PlanError: the caller may not have the map.
        :raises NamespaceError: the kernel refused.
        """
        others: dict[str, Any] = {**namespaces}
        check_keywords("Namespace.create", others, (*KEPT, "idmap"))
        names = selected(others, KEPT)
        planned = decide(idmap)
        return cls._holding(_core.create_namespaces(planned, names), planned.setup())

    @classmethod
    def from_pid(cls, pid: int) -> Self:
        """Hold the namespaces that a process is in, as far as they are not ours too.

        Commands are who the process's map makes the caller: its own ids if they are mapped, else
        0:0, without groups where setgroups(2) is permitted.

        :param pid: of the process, as this one sees it.
        :raises NamespaceError: there is no such process, it is in our user namespace or in one
            that is not below ours, or its namespaces may not be looked at.
        """
        directory: list[int] = []
        try:
            with _reported(f"process {pid}"):
                # The directory stays that of this process, and is empty once it has ended. The list
                # has it before a handler of signals can raise an exception.
                flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
                directory.extend(map(os.open, [f"/proc/{pid}"], [flags]))
            fds = _core.NamespaceFds()
            try:
                _open_foreign(fds, pid, *directory)
                return cls._holding(fds, _identity(pid, *directory))
            except BaseException:
                # Whoever keeps the error keeps the frames that it has passed.
                fds.close()
                raise
        finally:
            for fd in directory:
                os.close(fd)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Hold the user namespace that a descriptor refers to; the descriptor stays the caller's.

        A descriptor does not tell the map. Commands are 0:0, so these two must be mapped.

        :param fd: of /proc/PID/ns/user, or from ioctl_nsfs(2).
        :raises NamespaceError: it refers to something else.
        """
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWUSER:
            raise NamespaceError(
                f"descriptor {fd} is of no user namespace: open /proc/PID/ns/user", step="setns"
            )
        fds = _core.NamespaceFds()
        fds.take(0, fcntl.fcntl, fd, fcntl.F_DUPFD_CLOEXEC, 3)
        return cls._holding(fds, _core.Setup(uid=0, gid=0))

    @classmethod
    def open(cls, name: str) -> Self:
        """Hold a namespace that has a name (``usernsctl ns list`` shows them).

        :param name: 1 to 64 letters, digits, dots, dashes and underscores.
        :raises NamespaceError: there is none of that name (cause ``"no-such-namespace"``), or the
            state directory can't be trusted.
        """
        return cls.of_holder(named.find_named(name))

    @classmethod
    def open_or_create(
        cls, name: str, idmap: AnyIdMap | None = None, **namespaces: Unpack[options.Kinds]
    ) -> Self:
        """Hold a namespace that has a name; make it if there is none.

        Any number of processes may call it at once: one makes it, all get the same. It outlives
        them: ``usernsctl ns remove NAME`` ends it.

        :param idmap: the ids inside, if it is made; by default the caller is root there.
        :param namespaces: as :meth:`create` has them, and ``pid=True``.
        :raises TypeError: there is another argument.
        :raises NamespaceError: the kernel refused, or the state directory can't be trusted.
        """
        others: dict[str, Any] = {**namespaces}
        check_keywords("Namespace.open_or_create", others, (*_core.NAMESPACES, "idmap"))
        names = selected(others)
        wanted = requested(idmap)
        with named.open_or_create(name, named.options_of(wanted, names)) as known:
            namespace = cls.of_holder(known)
        # What usernsctl-exec has said when it was made (csrc/prelude.c).
        _, is_single, reason = known.notice.partition("--allow-single-id allows: ")
        if is_single and wanted.allow_single_id:
            warn_single_id(reason.split("\n")[0])
        return namespace

    @classmethod
    def of_holder(cls, known: NamedNamespace) -> Self:
        """Hold what the holder of a named namespace holds.

        :meta private:
        :raises NamespaceError: it is gone.
        :raises Stranger: it is not this user's.
        """
        with contextlib.ExitStack() as undo:
            with known.alive():
                namespace = cls.from_pid(known.pid)
                undo.callback(namespace.close)
            undo.pop_all()
        return namespace

    def target(self) -> Target:
        """Where commands go that are started here; see :mod:`usernsctl._system.target`.

        :meta private:
        """
        setup = replace(self._identity)
        # Joining a mount namespace moves a process to its root directory (setns(2)).
        if self._fds[1] >= 0:
            with contextlib.suppress(FileNotFoundError):
                setup.cwd = os.getcwdb()
        return Target(join=self._fds, setup=setup, owner=self, held=self._shared.use())

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
        """Start a command here: :class:`usernsctl.Popen` with its arguments, but for `idmap`.

        :raises ValueError: it is closed, or `idmap` is given.
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
        """Run a command here and wait for it: :func:`usernsctl.run`, but for `idmap`.

        :raises ValueError: it is closed, or `idmap` is given.
        :raises TimeoutExpired: as :func:`usernsctl.run` does.
        :raises CalledProcessError: likewise.
        :raises UsernsError: likewise.
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
        """Run a command here and return what it wrote: :func:`usernsctl.check_output`.

        :raises ValueError: it is closed, or `idmap` is given.
        :raises TimeoutExpired: as :func:`usernsctl.run` does.
        :raises CalledProcessError: likewise.
        :raises UsernsError: likewise.
        """
        return commands.check_output(args, bufsize, *positional, namespace=self, **arguments)

    async def create_subprocess_exec(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        **arguments: Unpack[options.StreamOptions],
    ) -> aio.Process:
        """Start a command here from asyncio: :func:`usernsctl.create_subprocess_exec`.

        :raises ValueError: it is closed, or text was asked for.
        :raises UsernsError: as :class:`usernsctl.Popen` does.
        """
        return await aio.create_subprocess_exec(program, *args, namespace=self, **arguments)

    def spawn(self, args: Args, **arguments: Unpack[options.SpawnOptions]) -> commands.Child:
        """Start a command here with the least that takes: :func:`usernsctl.spawn`.

        :raises ValueError: it is closed, or a stream can't be had.
        :raises UsernsError: as :class:`usernsctl.Popen` does.
        """
        return commands.spawn(args, namespace=self, **arguments)

    def enter(self) -> None:
        """Move this process, which must have one thread only, in here. There is no way back.

        It is not dumpable from before that on, see :func:`usernsctl.enter`. Close the descriptors
        that those inside must not have in any case.

        :raises NamespaceError: the kernel refused; cause ``"multithreaded"`` if there are threads.
        """
        self.target().enter()

    def exec(self, args: Args, **arguments: Unpack[options.ExecOptions]) -> NoReturn:
        """Replace this process by a command in here: :func:`usernsctl.exec`.

        Not for a namespace with a PID namespace of its own, which only children enter.

        :raises ValueError: it is closed.
        :raises UsernsError: as :func:`usernsctl.exec` does.
        """
        commands.exec(args, namespace=self, **arguments)

    def has(self, kind: str) -> bool:
        """Whether it has a namespace of its own of a kind; nothing has that is closed.

        :param kind: ``"user"``, ``"mount"``, ``"net"``, ``"pid"``, ``"ipc"``, ``"uts"``,
            ``"cgroup"`` or ``"time"``.
        :raises ValueError: there is no such kind.
        """
        if kind not in _core.ALL_NAMESPACES:
            known = ", ".join(_core.ALL_NAMESPACES)
            raise ValueError(f"kind must be one of {known}, not {kind!r}")
        return not self.closed and self._fds[_core.ALL_NAMESPACES.index(kind)] >= 0

    def fileno(self) -> int:
        """The descriptor of the user namespace; it stays this object's to close.

        :raises ValueError: it is closed.
        """
        self._check_open()
        return self._fds[0]

    @property
    def closed(self) -> bool:
        """Whether it was let go of."""
        return self._shared.closed

    def close(self) -> None:
        """Let go of the namespaces, once commands that are just being started have been.

        It waits for nothing. Any thread may call it at any time, and so may a handler of signals.
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
        raise TypeError("a Namespace can't be pickled: descriptors mean nothing elsewhere; name it")


class _SharedFds(Shared):
    """The descriptors of a namespace, used by any number of threads while one closes them."""

    def __init__(self, owner: _core.NamespaceFds) -> None:
        """Take over descriptors from their owner."""
        self._owner = owner
        super().__init__("the namespace", owner.numbers())

    def _release(self) -> None:
        self._owner.close()


@contextlib.contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turns an OSError into one that says what it is about."""
    try:
        yield
    except OSError as error:
        cause = "target-gone" if error.errno in (errno.ESRCH, errno.ENOENT) else None
        raise NamespaceError.from_os_error(error, what, step="setns", cause=cause) from error


def _open_foreign(fds: _core.NamespaceFds, pid: int, directory: int) -> None:
    """Open the namespaces of a process, by its /proc directory, that are not the caller's too."""
    for index, name in enumerate(_core.NAMESPACE_FILES):
        with _reported(f"process {pid}: namespace {name}"):
            theirs = os.stat(f"ns/{name}", dir_fd=directory)
            if not os.path.samestat(theirs, os.stat(f"/proc/self/ns/{name}")):
                open_there = functools.partial(os.open, dir_fd=directory)
                fds.take(index, open_there, f"ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    if fds.numbers()[0] < 0:
        raise NamespaceError(f"process {pid}: it is in our own user namespace", step="setns")


def _identity(pid: int, directory: int) -> _core.Setup:
    """Who commands are in the namespaces of a process."""
    try:
        return _core.setup_to_join(directory)
    except UsernsError as error:
        raise NamespaceError(
            f"process {pid}: its ids can't be told from ours: {error.reason}",
            step="setns",
            errno=error.errno or 0,
            cause="join-denied",
        ) from error
