"""Commands in new or existing namespaces, with arguments and results as in subprocess."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from subprocess import DEVNULL, PIPE, STDOUT, CalledProcessError, CompletedProcess, TimeoutExpired
from typing import TYPE_CHECKING, Any, AnyStr, NamedTuple, NoReturn, Protocol, Unpack, overload

from usernsctl import _core
from usernsctl._core import START_SECONDS
from usernsctl._lean import LateModule
from usernsctl._system.descriptors import (
    ClosedError,
    Shared,
    deadline_after,
    pollable,
    seconds_left,
    wait_readable,
)
from usernsctl._system.handover import restore_signals, set_inheritable
from usernsctl._system.target import ENTERABLE, Joinable, Propagation, Target, make_target, selected
from usernsctl.commands.arguments import (
    TEXT_ARGUMENTS,
    Args,
    ChildArguments,
    Environment,
    Stream,
    StrOrBytesPath,
    check_ids,
    check_keywords,
    check_streams,
    check_timeout,
    descriptors,
    encoded_path,
    keywords_of,
    make_command,
    opened,
    stdio,
)
from usernsctl.errors import CommandError, NamespaceError
from usernsctl.maps import AnyIdMap

if TYPE_CHECKING:
    from usernsctl.commands import options
else:
    options = LateModule("usernsctl.commands.options")

# The interval, in seconds, between attempts to reap an exited child whose tracer has not waited for
# it yet (ptrace(2)).
TRACER_SECONDS = 0.001


class Collected(subprocess.Popen[AnyStr]):
    """A :class:`subprocess.Popen` that waits for its child through a pidfd.

    A subclass starts the child, and then calls :meth:`_hold` with the child's pidfd.
    """

    #: A pidfd of the child, close-on-exec; -1 once the child was reaped. This object closes the
    #: pidfd.
    pidfd: int = -1

    _child_created: bool  # Private attribute of subprocess: true if there is a child to reap.
    _owner = -1  # The pid of the process that started the child.
    # The resource usage of the reaped child; see _core.ExitedChild.reap().
    _usage: tuple[float, float, int] | None = None

    def _hold(self, pidfd: int) -> None:
        self._owner = os.getpid()
        self._shared = Shared("the pidfd", [pidfd])
        self.pidfd = pidfd

    # _internal_poll and _wait override private methods of subprocess. These methods are the same in
    # Python 3.11 to 3.14. The overridden methods lose the exit status if a signal handler raises an
    # exception after waitpid(2), notice the exit up to 50 ms late, and return 0 if SIGCHLD is
    # ignored. The overriding methods call the overridden methods only if the pidfd is closed, for
    # example while the object is garbage collected.

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        """Reap the child if it has exited; return its exit status, or None while it runs."""
        if self.returncode is None:
            try:
                with self._shared.use() as (pidfd,):
                    self._look(pidfd)
            except ClosedError:
                super()._internal_poll(_deadstate)  # type: ignore[misc]
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        deadline = deadline_after(timeout)
        while self.returncode is None:
            left = seconds_left(deadline)
            try:
                with self._shared.use() as (pidfd,):
                    if not wait_readable(pidfd, timeout=left):
                        assert timeout is not None
                        raise TimeoutExpired(self.args, timeout)
                    self._look(pidfd)
            except ClosedError:
                super()._wait(left)  # type: ignore[misc]
            else:
                # Try again later: the child has exited, but its tracer has not waited for it yet.
                if self.returncode is None:
                    time.sleep(TRACER_SECONDS)
        return self.returncode

    def _look(self, pidfd: int) -> None:
        """Reap the child if it has exited, and record its exit status.

        Safe to call from several threads.
        """
        try:
            ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            # If SIGCHLD is ignored, the kernel has reaped the child. Before Linux 6.15, the exit
            # status is lost then; return 0, as subprocess does.
            self._end_with(_core.lost_returncode(pidfd) or 0)
            return
        if ended is not None:
            is_exit = ended.si_code == os.CLD_EXITED
            child = _core.ExitedChild()
            try:
                self._end_with(ended.si_status if is_exit else -ended.si_status)
            finally:
                self._usage = child.reap(pidfd) or self._usage

    def _end_with(self, status: int) -> None:
        if self.returncode is None:
            self.returncode = status
        self.pidfd = -1
        self._shared.close()

    def send_signal(self, sig: int) -> None:
        """Send a signal to the child, unless it was reaped. A signal handler may call this method.

        :param sig: the number of the signal, such as :data:`signal.SIGTERM`.
        """
        if self.poll() is not None:
            return
        try:
            with contextlib.suppress(ProcessLookupError), self._shared.use() as (pidfd,):
                signal.pidfd_send_signal(pidfd, sig)
        except ClosedError:
            super().send_signal(sig)

    # SandboxPopen defines the following methods, too, so that aio and pools can use either class.

    def _signal(self, sig: int) -> None:
        """Send a signal to the child without reaping it, because an event loop reaps it."""
        try:
            with contextlib.suppress(ProcessLookupError), self._shared.use() as (pidfd,):
                signal.pidfd_send_signal(pidfd, sig)
        except ClosedError:
            # The child has exited, or the garbage collector has closed the pidfd before it freed
            # this object.
            self.send_signal(sig)

    def _kill_all(self) -> None:
        """Kill the child, but not its descendants, which this object does not know."""
        self._signal(signal.SIGKILL)

    def _end(self) -> None:
        """Kill the child, and wait for its exit."""
        self.kill()
        self.wait()

    def _abandon(self) -> None:
        """Do nothing, because subprocess itself reaps the killed child later."""

    def _disown(self) -> None:
        """Close the pidfd, and let the child outlive this object without a ResourceWarning.

        When this process starts other children later, subprocess reaps the child if it has exited.
        """
        self._child_created = False
        self.pidfd = -1
        self._shared.close()
        waiting = subprocess._active  # type: ignore[attr-defined]
        if self.returncode is None and waiting is not None:
            waiting.append(self)

    def _watch(self) -> None:
        """Do nothing; SandboxPopen overrides this method to keep the command's socket open."""

    def _unwatch(self) -> None:
        """Do nothing; SandboxPopen overrides this method to undo :meth:`_watch`."""

    def __del__(self, *arguments: Any) -> None:
        if self.pidfd >= 0:
            self.pidfd = -1
            self._shared.close()
            if os.getpid() != self._owner:
                drop_streams(self)
                return
        if not self._child_created:
            return
        try:
            super().__del__(*arguments)
        finally:
            # Under -W error, Popen.__del__() raises an exception before it appends the child to
            # _active, the list of children to reap later. The child would stay a zombie, and its
            # PID namespace would remain.
            waiting = subprocess._active  # type: ignore[attr-defined]
            is_running = self.returncode is None
            if is_running and waiting is not None and self not in waiting:
                waiting.append(self)


def drop_streams(popen: subprocess.Popen[Any]) -> None:
    """Close a forked child's copies of pipes to a command, without flushing them.

    The parent itself will flush the buffered data.
    """
    for stream in (popen.stdin, popen.stdout, popen.stderr):
        buffered = getattr(stream, "buffer", stream)
        raw = getattr(buffered, "raw", buffered)
        if raw is not None:
            raw.close()


__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "CalledProcessError",
    "Child",
    "CompletedProcess",
    "Popen",
    "TimeoutExpired",
    "call",
    "check_call",
    "check_output",
    "exec",
    "run",
    "spawn",
]


def _start(
    target: Target, request: _core.Spawn, in_cgroup: StrOrBytesPath | int | None
) -> tuple[int, int]:
    request.plan = target.plan
    request.namespaces = target.namespaces
    request.has_init = target.has_init
    request.setup = target.setup
    with target.keep_open, opened(in_cgroup) as request.cgroup:
        request.join = target.join
        return _core.spawn(request)


class Popen(Collected[AnyStr]):
    """A command in new or existing namespaces, with the interface of :class:`subprocess.Popen`.

    The child is created by clone3(2) with CLONE_VFORK and CLONE_VM, so the cost does not depend on
    the size of this process. The child executes a small program before it enters the namespaces, so
    a process inside sees no data of this process except the data that the command receives. Any
    thread may start a command.

    `user`, `group` and `extra_groups` are ids *inside*; their defaults depend on `idmap`.
    `preexec_fn` and ``shell=True`` raise :class:`ValueError`.

    If a Popen is garbage collected while the command runs, a :class:`ResourceWarning` is issued,
    the command keeps running, as with :mod:`subprocess`, and `pidfd` is closed.

    :param idmap: the ids inside: an :class:`IdMap`; extents, for uids and gids alike; or a string:
        ``"root"``, the default, maps the caller to root; ``"current"`` and ``"auto"`` are
        :meth:`IdMap.current` and :meth:`IdMap.auto`; ``"subids"`` maps the caller's own and
        subordinate ids, each to itself; ``"all"`` maps all ids of the caller's user namespace, each
        to itself.
    :param Namespace namespace: an existing namespace to join instead of `idmap`.
    :param bool mount: whether the command runs in a new mount namespace. `net`, `pid`, `ipc`,
        `uts`, `cgroup` and `time` request new namespaces of the other kinds (namespaces(7)). With
        `pid`, the command is PID 1 of the PID namespace.
    :param bool init: whether PID 1 of the new PID namespace (`pid`) is a small process of
        usernsctl, with the command as its child. PID 1 forwards signals to the command, reaps
        orphans, and exits when the command exits, with 128+N if signal N killed the command.
        Without `init`, the command is PID 1: it receives only signals that it handles, and all
        orphans become its children (pid_namespaces(7)).
    :param propagation: the propagation of the mounts in a new mount namespace, ``"private"`` by
        default, or ``"slave"``, ``"shared"`` or ``"unchanged"`` (mount_namespaces(7)).
    :param int pdeathsig: the number of the signal that the command receives when the *thread* that
        started it exits (PR_SET_PDEATHSIG(2const)), or 0 for no signal.
    :param in_cgroup: the directory, as a path or a descriptor, of a control group v2 in which to
        start the command (CLONE_INTO_CGROUP of clone3(2), Linux 5.7). The command never runs
        outside that group. The caller must be able to write cgroup.procs in that group, and in the
        closest common ancestor of that group and the caller's group (cgroups(7)). With `cgroup`,
        the directory is the root of the new cgroup namespace.
    :param float start_timeout: the timeout for starting the command, in seconds; no timeout if
        ``None``. Root inside a joined namespace may stop the child before the child executes the
        command.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: an argument has an invalid value, or is not supported.
    :raises MapError: the id map is malformed.
    :raises PlanError: the caller may not use the id map.
    :raises NamespaceError: the kernel denied the namespaces or the control group, or starting the
        command took more than `start_timeout` seconds (cause ``"start-timeout"``). The command has
        not run.
    :raises CommandError: the command could not be started. The error is also a
        :class:`FileNotFoundError` if the command does not exist, and a :class:`PermissionError` if
        the caller may not execute it.
    """

    pid: int
    returncode: int | Any  # None until the exit status is known; annotated as in typeshed.

    @overload
    def __init__(
        self: Popen[str],
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        idmap: AnyIdMap | None = None,
        namespace: Joinable | None = None,
        **arguments: Unpack[options.PopenText],
    ) -> None: ...

    @overload
    def __init__(
        self: Popen[str],
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        idmap: AnyIdMap | None = None,
        namespace: Joinable | None = None,
        **arguments: Unpack[options.PopenEncoded],
    ) -> None: ...

    @overload
    def __init__(
        self: Popen[bytes],
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        idmap: AnyIdMap | None = None,
        namespace: Joinable | None = None,
        **arguments: Unpack[options.PopenBytes],
    ) -> None: ...

    @overload
    def __init__(
        self: Popen[Any],
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        idmap: AnyIdMap | None = None,
        namespace: Joinable | None = None,
        **arguments: Unpack[options.PopenEither],
    ) -> None: ...

    def __init__(
        self,
        args: Args,
        bufsize: int = -1,
        *positional: Any,
        idmap: AnyIdMap | None = None,
        namespace: Joinable | None = None,
        init: bool = False,
        propagation: Propagation = "private",
        pdeathsig: int = 0,
        in_cgroup: StrOrBytesPath | int | None = None,
        start_timeout: float | None = START_SECONDS,
        **arguments: Any,
    ) -> None:
        check_keywords("Popen", arguments, _KEYWORDS)
        check_timeout(start_timeout, "start_timeout")
        names = selected(arguments)
        self._target = make_target(
            names, init=init, idmap=idmap, namespace=namespace, propagation=propagation
        )
        self._target.setup.pdeathsig = pdeathsig
        self._in_cgroup = in_cgroup
        self._start_timeout = start_timeout
        try:
            super().__init__(args, bufsize, *positional, **arguments)
        except BaseException as error:
            if self._ends:
                self._close_unopened()
            # A plain OSError, not of a subclass from usernsctl, means that subprocess could not
            # create pipes because no descriptors are free.
            if type(error) is not OSError:
                raise
            raise CommandError.from_os_error(error, "the standard streams", step="stdio") from error

    # The descriptors of this process's ends of the pipes, in the order of the streams; -1 for a
    # stream without a pipe. Empty until the pipes are created.
    _ends: tuple[int, ...] = ()

    def _get_handles(self, stdin: Any, stdout: Any, stderr: Any) -> tuple[int, ...]:
        check_streams(stdin=stdin, stdout=stdout, stderr=stderr)
        made: tuple[int, ...] = super()._get_handles(stdin, stdout, stderr)  # type: ignore[misc]
        p2cwrite, c2pread, errread = made[1], made[2], made[4]
        self._ends = p2cwrite, c2pread, errread
        return made

    def _get_devnull(self) -> int:
        """Open /dev/null unless it is open; return its descriptor, which the base class closes.

        dict.update() opens and stores the descriptor in C code. Python runs no signal handler
        between the two steps, so an exception of a handler can't leak the descriptor.
        """
        if "_devnull" not in vars(self):
            vars(self).update(
                zip(["_devnull"], map(os.open, [os.devnull], [os.O_RDWR]), strict=True)
            )
        return self._devnull

    # The descriptor of /dev/null while Popen.__init__ starts a command with DEVNULL.
    _devnull: int

    def _close_unopened(self) -> None:
        """Close the pipe descriptors that Popen.__init__ leaves open if it fails.

        Popen.__init__ may have failed because of an unknown encoding, or an exception that a signal
        handler raised. If open() has failed, it has closed its descriptor: the first pipe
        descriptor that has no file object. If TextIOWrapper() has failed on the last file object
        instead, that descriptor is still open.
        """
        files = self.stdin, self.stdout, self.stderr
        pairs = zip(self._ends, files, strict=True)
        unopened = [fd for fd, file in pairs if fd >= 0 and file is None]
        last = [file for file in files if file is not None][-1:]
        is_text: bool = self.text_mode  # type: ignore[attr-defined]
        is_text_missing = is_text and last and not isinstance(last[0], io.TextIOWrapper)
        for fd in unopened if is_text_missing else unopened[1:]:
            os.close(fd)

    def _execute_child(self, *arguments: Any) -> None:
        child = ChildArguments(*arguments)
        argv = child.argv()
        check_ids(child.uid, child.gid, child.gids)
        command = make_command(argv, child.executable, child.env)
        child.audit(argv, child.cwd, child.env)
        setup = self._target.setup
        setup.cwd = setup.cwd if child.cwd is None else encoded_path("cwd", child.cwd)
        setup.uid = setup.uid if child.uid is None else child.uid
        setup.gid = setup.gid if child.gid is None else child.gid
        setup.groups = setup.groups if child.gids is None else child.gids
        request = _core.Spawn(
            command=command,
            stdio=(child.p2cread, child.c2pwrite, child.errwrite),
            close_fds=child.close_fds,
            keep=descriptors(child.pass_fds),
            restore_signals=child.restore_signals,
            new_session=child.start_new_session,
            process_group=child.group,
            umask=child.umask,
            start_timeout=self._start_timeout,
        )
        try:
            self.pid, pidfd = _start(self._target, request, self._in_cgroup)
            self._hold(pidfd)
            self._child_created = True
            self._close_pipe_fds(*child.pipes)  # type: ignore[attr-defined]
        except BaseException:
            # If a signal handler has raised an exception after the child was started, only
            # `request` contains the pidfd of the child.
            if request.pidfd >= 0:
                self._undo(request.pidfd)
            raise

    def _undo(self, pidfd: int) -> None:
        """Kill and reap the child of a failed start, and close its pidfd."""
        _core.end_child(pidfd)
        self.returncode = -signal.SIGKILL
        self.pidfd = -1
        if hasattr(self, "_shared"):
            self._shared.close()
        else:
            os.close(pidfd)


# All known keyword arguments. The error for an unknown keyword suggests a similar known keyword.
# The maximum number of bytes that read_until_exit() reads at once.
_BLOCK = 64 * 1024

_KEYWORDS = frozenset(
    (*keywords_of(subprocess.Popen.__init__), *keywords_of(Popen.__init__), *_core.NAMESPACES)
)


def start_within(
    timeout: float | None, args: Args, bufsize: int = -1, *positional: Any, **arguments: Any
) -> Popen[Any]:
    """Start the command of a ``run()`` call, and return its Popen.

    :param timeout: the timeout of the command, including its start, in seconds; no timeout if
        ``None``.
    :raises TimeoutExpired: starting the command took more than `timeout` seconds.
    """
    patience = arguments.get("start_timeout", START_SECONDS)
    check_timeout(patience, "start_timeout")
    if timeout is None or (patience is not None and patience < timeout):
        return Popen[Any](args, bufsize, *positional, **arguments)
    try:
        return Popen[Any](args, bufsize, *positional, **{**arguments, "start_timeout": timeout})
    except NamespaceError as error:
        if error.cause != "start-timeout":
            raise
        raise TimeoutExpired(args, timeout) from error


class Child(NamedTuple):
    """A process that :func:`spawn` started. The caller must reap `pid` and close `pidfd`."""

    pid: int
    pidfd: int


def spawn(
    args: Args,
    *,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.SpawnOptions],
) -> Child:
    """Start a command in new or existing namespaces, without the cost of a :class:`Popen`.

    :param args: the command and its arguments, or a string, the name of a command without
        arguments.
    :param idmap: the id map of the new user namespace; see :class:`Popen`.
    :param namespace: an existing namespace to join instead of `idmap`.
    :param arguments: `mount` and the other kinds of namespaces, `init`, `propagation`, `pdeathsig`,
        `in_cgroup`, `env`, `cwd`, `pass_fds` and `start_timeout`, which :class:`Popen` describes;
        and `stdin`, `stdout` and `stderr`, each a descriptor, an object with a method ``fileno()``,
        DEVNULL, or ``None`` for the caller's own stream.
    :returns: the pid and a pidfd of the command. The caller must reap the command.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: a stream is PIPE or STDOUT, or is not a descriptor; or `args` is empty.
    :raises UsernsError: as :class:`Popen` does.
    """
    return _spawn(args, idmap, namespace, **arguments)


def _spawn(
    args: Args,
    idmap: AnyIdMap | None,
    namespace: Joinable | None,
    *,
    init: bool = False,
    propagation: Propagation = "private",
    env: Environment | None = None,
    cwd: StrOrBytesPath | None = None,
    stdin: Stream = None,
    stdout: Stream = None,
    stderr: Stream = None,
    pass_fds: Iterable[int] = (),
    pdeathsig: int = 0,
    in_cgroup: StrOrBytesPath | int | None = None,
    start_timeout: float | None = START_SECONDS,
    **kinds: Any,
) -> Child:
    check_keywords("spawn", kinds, _SPAWN_KEYWORDS)
    check_timeout(start_timeout, "start_timeout")
    names = selected(kinds)
    target = make_target(
        names, init=init, idmap=idmap, namespace=namespace, propagation=propagation
    )
    target.setup.pdeathsig = pdeathsig
    target.setup.cwd = target.setup.cwd if cwd is None else encoded_path("cwd", cwd)
    with stdio(stdin=stdin, stdout=stdout, stderr=stderr) as streams:
        request = _core.Spawn(
            command=make_command(args, None, env),
            stdio=streams,
            keep=descriptors(pass_fds),
            start_timeout=start_timeout,
        )
        return Child(*_start(target, request, in_cgroup))


_SPAWN_KEYWORDS = frozenset((*keywords_of(_spawn), *_core.NAMESPACES))


def call(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.CallOptions],
) -> int:
    """Run a command in new namespaces and return its exit status, like :func:`subprocess.call`.

    :param args: the command and its arguments, or a string, the name of a command without
        arguments.
    :param idmap: the id map of the new user namespace; see :class:`Popen`.
    :param namespace: an existing namespace to join instead of `idmap`.
    :param arguments: the arguments of :class:`Popen`, and `timeout`, in seconds.
    :returns: the exit status, or -N if signal N killed the command.
    :raises TimeoutExpired: the command took more than `timeout` seconds, and was killed.
    :raises UsernsError: as :class:`Popen` does.
    """
    others: dict[str, Any] = {**arguments}
    timeout = others.pop("timeout", None)
    check_timeout(timeout)
    deadline = deadline_after(timeout)
    with start_within(
        timeout, args, bufsize, *positional, idmap=idmap, namespace=namespace, **others
    ) as process:
        try:
            return process.wait(seconds_left(deadline))
        except BaseException as error:
            process.kill()
            if isinstance(error, TimeoutExpired):
                error.timeout = timeout or 0
            raise


def check_call(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.CallOptions],
) -> int:
    """Run a command in new namespaces, and check its exit status as :func:`subprocess.check_call`.

    :param args: the command and its arguments, or a string, the name of a command without
        arguments.
    :param idmap: the id map of the new user namespace; see :class:`Popen`.
    :param namespace: an existing namespace to join instead of `idmap`.
    :param arguments: the arguments of :class:`Popen`, and `timeout`, in seconds.
    :returns: 0.
    :raises CalledProcessError: the exit status of the command is not 0.
    :raises TimeoutExpired: the command took more than `timeout` seconds, and was killed.
    :raises UsernsError: as :class:`Popen` does.
    """
    status = call(args, bufsize, *positional, idmap=idmap, namespace=namespace, **arguments)
    if status:
        raise CalledProcessError(status, args)
    return 0


@overload
def run(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.RunText],
) -> CompletedProcess[str]: ...


@overload
def run(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.RunEncoded],
) -> CompletedProcess[str]: ...


@overload
def run(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.RunBytes],
) -> CompletedProcess[bytes]: ...


@overload
def run(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.RunEither],
) -> CompletedProcess[Any]: ...


def run(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    started: Callable[[Popen[Any]], object] = lambda process: None,
    **arguments: Any,
) -> CompletedProcess[Any]:
    """Run a command in new namespaces and wait for it, like :func:`subprocess.run`.

    :param args: the command and its arguments, or a string, the name of a command without
        arguments.
    :param input: the standard input of the command: a str if the streams of the command carry text,
        else bytes.
    :param bool capture_output: whether to return the standard output and error of the command.
    :param float timeout: the timeout of the command, including its start, in seconds; no timeout if
        ``None``.
    :param bool check: whether to raise :class:`CalledProcessError` for an exit status other than 0.
    :param started: a function that is called with the :class:`Popen` of the command once the
        command runs. If the function raises an exception, the command is killed.
    :param arguments: the arguments of :class:`Popen`.
    :returns: the exit status of the command, or -N if signal N killed the command, and the output.
    :raises TimeoutExpired: the command took more than `timeout` seconds, and was killed.
    :raises CalledProcessError: `check` is true, and the exit status of the command is not 0.
    :raises ValueError: two arguments exclude each other, or an argument is not supported.
    :raises UsernsError: as :class:`Popen` does.
    """
    check_keywords("run", arguments, _RUN_KEYWORDS)
    check_timeout(timeout)
    choose_pipes(arguments, input, capture_output)
    deadline = deadline_after(timeout)
    with start_within(timeout, args, bufsize, *positional, **arguments) as process:
        try:
            started(process)
        except BaseException:
            # Kill the command, because the `with` statement would wait for its exit.
            process.kill()
            raise
        try:
            stdout, stderr = communicate(process, input, seconds_left(deadline))
        except TimeoutExpired as expired:
            expired.timeout = timeout or 0
            raise
    status = process.returncode
    if check and status:
        raise CalledProcessError(status, process.args, output=stdout, stderr=stderr)
    return CompletedProcess(process.args, status, stdout, stderr)


_RUN_KEYWORDS = _KEYWORDS.union(keywords_of(run))


def choose_pipes(arguments: dict[str, Any], input: Any, capture_output: bool) -> None:
    """Set streams in `arguments` to PIPE if `input` or `capture_output` requires pipes.

    :raises ValueError: `arguments` contains another value for one of these streams.
    """
    if input is not None:
        if arguments.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        arguments["stdin"] = PIPE
    if capture_output:
        if arguments.get("stdout") is not None or arguments.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        arguments["stdout"] = arguments["stderr"] = PIPE


class Bounds(Protocol):
    """Interface of a limit for the output of a command."""

    def output_of(self, process: Any, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Communicate with a process until it exits; return its output, up to this limit."""


def communicate(
    process: Any, input: Any, timeout: float | None, bounds: Bounds | None = None
) -> tuple[Any, Any]:
    """Communicate with the process of a ``run()`` call until it exits; return its output.

    :param process: a Popen or a SandboxPopen.
    :param bounds: the limit of the output, or ``None``.
    :raises TimeoutExpired: the command took more than `timeout` seconds, and was killed.
    """
    output: tuple[Any, Any]
    try:
        if bounds is None:
            output = process.communicate(input, timeout=pollable(timeout))
        else:
            output = bounds.output_of(process, input, timeout)
    except TimeoutExpired as expired:
        # Do not read the remaining output, because TimeoutExpired contains only the output up to
        # the timeout.
        process._end()
        raise expired
    except BaseException:
        process.kill()
        raise
    return output


def read_until_exit(process: Popen[bytes], timeout: float | None = None) -> tuple[bytes, bytes]:
    """Wait until a process has exited; return what it has written to the pipes stdout and stderr.

    Unlike :meth:`Popen.communicate`, this function does not wait for end of file: a child that
    another thread has forked may keep the pipes open until it exits.

    :param timeout: the timeout in seconds; ``None`` for no timeout.
    :raises TimeoutExpired: the process did not exit in time, and was killed.
    """
    deadline = deadline_after(timeout)
    assert process.stdout is not None
    assert process.stderr is not None
    found = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    unread = {*found}
    while True:
        # Check for the exit before reading: if the process had exited, and then no data are found,
        # the pipes stay empty.
        has_ended = wait_readable(process.pidfd, timeout=0)
        ready = [fd for fd in unread if wait_readable(fd, timeout=0)]
        for fd in ready:
            data = os.read(fd, _BLOCK)
            found[fd] += data
            if not data:
                unread.remove(fd)
        if not ready and has_ended:
            break
        left = seconds_left(deadline)
        if timeout is not None and not left:
            process._end()
            raise TimeoutExpired(process.args, timeout)
        if not ready:
            wait_readable(process.pidfd, *unread, timeout=left)
    process.wait()
    stdout, stderr = found.values()
    return stdout, stderr


@overload
def check_output(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.OutputText],
) -> str: ...


@overload
def check_output(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.OutputEncoded],
) -> str: ...


@overload
def check_output(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.OutputBytes],
) -> bytes: ...


@overload
def check_output(
    args: Args,
    bufsize: int = -1,
    *positional: Any,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.OutputEither],
) -> Any: ...


def check_output(args: Args, bufsize: int = -1, *positional: Any, **arguments: Any) -> Any:
    """Run a command in new namespaces and return its output, like :func:`subprocess.check_output`.

    :param args: the command and its arguments, or a string, the name of a command without
        arguments.
    :param arguments: the arguments of :func:`run`, except `stdout`, `capture_output` and `check`.
    :returns: a str if `text`, `encoding`, `errors` or `universal_newlines` is given, else bytes.
    :raises CalledProcessError: the exit status of the command is not 0.
    :raises TimeoutExpired: the command took more than `timeout` seconds, and was killed.
    :raises UsernsError: as :class:`Popen` does.
    """
    return run(args, bufsize, *positional, **output_options(arguments)).stdout


def output_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the arguments of ``check_output()`` to arguments of ``run()``.

    :raises ValueError: `arguments` contains `stdout` or `check`.
    """
    for name in ("stdout", "check"):
        if name in arguments:
            raise ValueError(f"{name} argument not allowed, it will be overridden.")
    found = {**arguments, "stdout": PIPE, "check": True}
    if found.get("input", "") is None:
        # Convert None to empty input, as subprocess.check_output() does; run() would pass the
        # caller's own standard input.
        is_text = any(found.get(name) for name in TEXT_ARGUMENTS)
        found["input"] = "" if is_text else b""
    return found


def exec(
    args: Args,
    *,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    **arguments: Unpack[options.ExecOptions],
) -> NoReturn:
    """Replace this process with a command in new or existing namespaces. The pid stays the same.

    The process must have only one thread. ``sys.stdout`` and ``sys.stderr`` are flushed first.
    Until execve(2), no process inside can trace this process.

    If an exception is raised, the process should exit: it may already be inside the new namespaces,
    and with `namespace`, its descriptors may be closed.

    :param args: the command and its arguments, or a string, the name of a command without
        arguments.
    :param idmap: the id map of the new user namespace; see :class:`Popen`.
    :param namespace: an existing namespace to join instead of `idmap`.
    :param arguments: `mount`, `net`, `ipc`, `uts`, `cgroup`, `propagation`, `executable`, `env` and
        `cwd`, which :class:`Popen` describes; and `pass_fds`, the descriptors from 3 on that the
        command inherits.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises MapError: the id map is malformed.
    :raises PlanError: the caller may not use the id map.
    :raises NamespaceError: the namespaces could not be created or entered; cause
        ``"multithreaded"`` if the process has several threads.
    :raises CommandError: the command could not be started.
    """
    _exec(args, idmap, namespace, **arguments)


def _exec(
    args: Args,
    idmap: AnyIdMap | None,
    namespace: Joinable | None,
    *,
    propagation: Propagation = "private",
    executable: StrOrBytesPath | None = None,
    env: Environment | None = None,
    cwd: StrOrBytesPath | None = None,
    pass_fds: Iterable[int] = (),
    **kinds: Any,
) -> NoReturn:
    check_keywords("exec", kinds, _EXEC_KEYWORDS)
    names = selected(kinds, ENTERABLE)
    command = make_command(args, executable, env)
    passed = descriptors(pass_fds)
    target = make_target(names, idmap=idmap, namespace=namespace, propagation=propagation)
    target.setup.cwd = target.setup.cwd if cwd is None else encoded_path("cwd", cwd)
    for file in (sys.stdout, sys.stderr):
        if file is not None and not file.closed:
            file.flush()
    target.enter(pass_fds=passed)
    set_inheritable(passed)
    restore_signals()
    _core.exec_command(command)


_EXEC_KEYWORDS = frozenset((*keywords_of(_exec), *ENTERABLE))
