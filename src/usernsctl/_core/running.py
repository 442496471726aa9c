"""Namespaces, commands and mounts."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from usernsctl import _programs
from usernsctl._core.failures import cause, check, raise_error, text_of
from usernsctl._core.memory import Memory
from usernsctl._core.planning import NativePlan
from usernsctl._core.records import NAMESPACES, Command, Setup, Spawn
from usernsctl._native import ffi, lib
from usernsctl._typing import Any, NoReturn
from usernsctl.errors import NamespaceError

# The program that enters namespaces in place of a process that has something to lose.
_CHILD = os.fsencode(_programs.path_of("usernsctl-child"))
# More milliseconds than an int has room for are for ever.
_SECONDS_MAX = (2**31 - 1) // 1000
_NS_FLAG = {name: lib.un_ns_flag(index) for index, name in enumerate(NAMESPACES, lib.UN_NS_MOUNT)}


def _flags(namespaces: Iterable[str]) -> int:
    flags = 0
    for name in namespaces:
        flags |= _NS_FLAG[name]
    return flags


def _fill_setup(native: Any, setup: Setup, memory: Memory) -> None:
    native.own_stdio = setup.own_stdio
    native.propagation = setup.propagation
    native.mount_proc = memory.string(setup.mount_proc)
    native.root = memory.string(setup.root)
    native.cwd = memory.string(setup.cwd)
    native.drop_bounding = setup.drop_bounding
    native.no_new_privs = setup.no_new_privs
    native.no_membarrier = setup.no_membarrier
    if setup.groups is not None:
        native.groups = memory.numbers("gid_t[]", setup.groups)
        native.group_count = len(setup.groups)
    native.gid = -1 if setup.gid is None else setup.gid
    native.uid = -1 if setup.uid is None else setup.uid
    native.keep_caps = setup.keep_caps
    native.pdeathsig = setup.pdeathsig


def _environment(env: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for name, value in env.items():
        if b"=" in name:
            raise ValueError("illegal environment variable name")
        yield name + b"=" + value


def _fill_command(native: Any, command: Command, memory: Memory) -> None:
    native.file = memory.string(command.file)
    native.path = memory.string(command.env.get(b"PATH"))
    native.argv = memory.strings(command.argv)
    native.envp = memory.strings(_environment(command.env))


def _joined(fds: Sequence[int] | None, memory: Memory) -> Any:
    if fds is None:
        return ffi.NULL
    return memory.keep(ffi.new("struct un_namespace *", {"fd": fds}))


def spawn(request: Spawn) -> tuple[int, int]:
    """Start a command in a child: its pid and a pidfd, which the caller closes.

    :raises NamespaceError: the namespaces could not be had.
    :raises CommandError: they could, but the command could not be started in them.
    :raises ValueError: an argument contains NUL, or a variable's name is malformed.
    """
    native, err, memory = ffi.new("struct un_spawn *"), ffi.new("struct un_error *"), Memory()
    pid, pidfd = ffi.new("pid_t *"), ffi.new("int *", -1)
    lib.un_spawn_init(native)
    _fill_setup(native.setup, request.setup, memory)
    _fill_command(native.command, request.command, memory)
    native.child = memory.string(_CHILD)
    native.plan = _planned(request.plan)
    native.join = _joined(request.join, memory)
    native.flags = _flags(request.namespaces)
    native.has_init = request.has_init
    native.cgroup = request.cgroup
    native.stdio = request.stdio
    native.close_fds = bool(request.close_fds)
    keep = sorted(set(request.keep))
    native.keep, native.keep_count = memory.numbers("int[]", keep), len(keep)
    native.restore_signals = bool(request.restore_signals)
    native.new_session = bool(request.new_session)
    native.process_group = request.process_group
    native.umask = request.umask
    native.start_timeout_ms = _milliseconds(request.start_timeout)
    try:
        check(lib.un_spawn(native, pid, pidfd, err), err)
        request.pidfd = pidfd[0]
        return pid[0], pidfd[0]
    except BaseException:
        # A handler of signals has raised it as soon as the call was over: nobody knows the child.
        request.pidfd = -1
        if pidfd[0] >= 0:
            try:
                end_child(pidfd[0])
            finally:
                os.close(pidfd[0])
        raise


def _milliseconds(seconds: float | None) -> int:
    """Return a time limit as the core has it; -1: none."""
    if seconds is None or seconds > _SECONDS_MAX:
        return -1
    return math.ceil(max(seconds, 0) * 1000)


def end_child(pidfd: int) -> None:
    """Kill a child of ours, and wait for its end."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)


def lost_returncode(pidfd: int) -> int | None:
    """Return how a child ended that was reaped already, as :class:`subprocess.Popen` has it.

    :returns: ``None``: the kernel does not tell (before Linux 6.15).
    """
    status = lib.un_lost_status(pidfd)
    return None if status < 0 else os.waitstatus_to_exitcode(status)


def _planned(plan: object | None) -> Any:
    return plan.cdata if isinstance(plan, NativePlan) else ffi.NULL


def enter(plan: NativePlan | None, namespaces: Iterable[str]) -> None:
    """Move this single-threaded process into new namespaces.

    If there is a plan, it is not dumpable from then on: nobody inside can look into it.

    :raises NamespaceError: they could not be had.
    """
    err = ffi.new("struct un_error *")
    check(lib.un_enter(_planned(plan), _flags(namespaces), _CHILD, True, err), err)


class NamespaceFds:
    """Descriptors of namespaces, which are closed with this object at the latest.

    It exists before the descriptors do: a signal handler may raise an exception as soon as a call
    of C returns, when nobody else knows of them.
    """

    def __init__(self) -> None:
        """Begin with no descriptor."""
        nothing = {"fd": [-1] * lib.UN_NS_COUNT}
        self.cdata = ffi.gc(ffi.new("struct un_namespace *", nothing), lib.un_namespace_close)

    def take(self, index: int, make: Callable[..., int], *arguments: Any) -> None:
        """Take over the descriptor that a function in C returns.

        No handler of signals comes between both: map() calls in C what is C.

        :param index: of the namespace, in the order of :data:`ALL_NAMESPACES`.
        """
        deque(map(self.cdata.fd.__setitem__, (index,), map(make, *zip(arguments))), 0)

    def numbers(self) -> list[int]:
        """Return the descriptors, in the order of :data:`ALL_NAMESPACES`; -1 stands for none."""
        return list(self.cdata.fd)

    def close(self) -> None:
        """Close the descriptors. Does nothing the second time, also in another thread."""
        ffi.release(self.cdata)


def create_namespaces(plan: NativePlan, namespaces: Iterable[str]) -> NamespaceFds:
    """Make namespaces that no process is in.

    :raises NamespaceError: the kernel refused.
    """
    made, err = NamespaceFds(), ffi.new("struct un_error *")
    check(lib.un_namespace_create(plan.cdata, _flags(namespaces), _CHILD, made.cdata, err), err)
    return made


def join(fds: Sequence[int]) -> None:
    """Move this single-threaded process into namespaces.

    It is not dumpable from then on: nobody inside can look into it.

    :raises NamespaceError: the kernel refused.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    check(lib.un_namespace_join(_joined(fds, memory), err), err)


def close_descriptors(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on but `keep`, which an exec passes on then.

    :raises CommandError: one of `keep` is not open.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    kept = sorted(set(keep))
    check(lib.un_close_fds(memory.numbers("int[]", kept), len(kept), err), err)


def check_single_thread() -> None:
    """A process enters a user namespace as a whole, so it must have one thread.

    :raises NamespaceError: it has more.
    """
    threads = lib.un_thread_count()
    if threads > 1:
        known = cause("multithreaded")
        raise NamespaceError(
            f"this process has {threads} threads",
            step="setns",
            errno=errno.EINVAL,
            cause="multithreaded",
            remedy=known.remedy if known else None,
        )


def apply_setup(setup: Setup) -> None:
    """Do inside the namespaces what `setup` says.

    :raises NamespaceError: something of it failed.
    """
    native, err, memory = ffi.new("struct un_setup *"), ffi.new("struct un_error *"), Memory()
    lib.un_setup_init(native)
    _fill_setup(native, setup, memory)
    check(lib.un_setup_apply(native, err), err)


def exec_command(command: Command) -> NoReturn:
    """Replace this program by a command.

    :raises CommandError: it could not be started.
    """
    native, err, memory = ffi.new("struct un_command *"), ffi.new("struct un_error *"), Memory()
    _fill_command(native, command, memory)
    lib.un_exec(native, err)
    raise_error(err)


def stand_in(child: int) -> int:
    """Wait for the child process `child`, and pass on to it what signals come; see un_stand_in().

    :returns: how it ended, as :func:`os.waitpid` gives it.
    """
    return int(lib.un_stand_in(child))


def reraise(number: int) -> None:
    """End this process by the signal that has killed a child; see un_reraise().

    Returns if that is not possible, as in process 1.
    """
    lib.un_reraise(number)


def be_init(child: int, report: int) -> NoReturn:
    """Be process 1 of a PID namespace for the command `child`; see un_be_init().

    All signals must be blocked since before the command was started.

    :param report: the descriptor of a pipe that gets each status of the command.
    """
    lib.un_be_init(child, report)
    os.abort()


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None
) -> None:
    """Mount something (mount(2)).

    :raises NamespaceError: the kernel refused it.
    """
    err, memory = ffi.new("struct un_error *"), Memory()
    strings = (memory.string(source), memory.string(target), memory.string(fstype))
    check(lib.un_mount(*strings, flags, memory.string(data), err), err)


def version() -> str:
    """The version of this package."""
    return text_of(lib.un_version())
