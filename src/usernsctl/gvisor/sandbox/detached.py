"""Detached sandboxes: they go on when their creator ends, and no process waits for them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from usernsctl import hardening
from usernsctl._lean import LateModule
from usernsctl._system import processes
from usernsctl._system.deadlines import deadline_after, seconds_left
from usernsctl._system.descriptors import ClosedError, Shared, wait_readable
from usernsctl._system.processes import exit_status, parent_namespace, reap
from usernsctl._system.records import Entry
from usernsctl.commands.popen import DEVNULL, PIPE, Popen, TimeoutExpired, start_within
from usernsctl.errors import NamespaceError, RunscError
from usernsctl.gvisor.agent.start import ProcessDefaults
from usernsctl.gvisor.runsc.command import PRIVATE_UMASK
from usernsctl.gvisor.runsc.container import SandboxEnded
from usernsctl.gvisor.runsc.find import find_runsc, runsc_environment
from usernsctl.gvisor.sandbox.directory import PopenStreams, SandboxDirectory, close_streams
from usernsctl.gvisor.sandbox.host_namespace import HostNamespace, RunscNamespace
from usernsctl.gvisor.sandbox.records import (
    STATE,
    DetachedRecord,
    close_pidfds,
    describe_detached,
    draft_detached,
    end_processes,
    find_detached,
    open_runsc_state,
    read_defaults,
)
from usernsctl.namespaces.namespace import Namespace

if TYPE_CHECKING:
    import asyncio

    from usernsctl.commands import aio
else:
    asyncio = LateModule("asyncio")
    aio = LateModule("usernsctl.commands.aio")

# The directory for runsc's state, as its commands are given it: their current directory. runsc
# writes the name of its socket there into that state.
_HERE = "/proc/self/cwd"

# How long `runsc wait` may take after the end of a sandbox, in seconds.
_ANSWER_SECONDS = 10


class DetachedSandbox:
    """A detached sandbox, seen from any process of the same user.

    :ivar record: its record.
    :ivar popen: the process that started the sandbox, with our ends of its pipes; ``None`` if
        another process has started it.
    """

    def __init__(
        self,
        entry: Entry[DetachedRecord],
        popen: Popen[bytes] | None = None,
        host: HostNamespace | None = None,
        inherited: ProcessDefaults | None = None,
    ) -> None:
        """Open descriptors of its processes and of its namespace.

        :param host: the namespace of its start, if that was just now.
        :param inherited: the settings that all its commands have in common, if they are known.
        :raises ForeignProcessError: its record is not true.
        :raises NamespaceError: a descriptor can't be opened.
        """
        self.record: DetachedRecord = entry.record
        self.popen = popen
        self.status: int | None = None
        self._runsc = None if host is None else host.runsc
        self._inherited = inherited
        self._entry = entry
        self._environ = runsc_environment() if host is None else host.environ
        self._streams = PopenStreams()
        self._is_killed = False
        self._inside: Namespace | None = None
        opened = self.record.open_processes()
        try:
            state = open_runsc_state(entry).fd
        except BaseException:
            close_pidfds(opened)
            raise
        # The directory for runsc's state; the process that the command runs in, unless it has
        # ended; runsc's other processes.
        self._shared = Shared("the sandbox", [state, *(fd for fd in opened if fd is not None)])
        self._has_ended = opened[0] is None
        try:
            if opened[0] is not None:
                self._inside = _namespace_of_runsc(self.record.pid, opened[0])
        except BaseException:
            self.let_go()
            raise

    @property
    def inherited(self) -> ProcessDefaults:
        """The settings that all commands of the sandbox have in common.

        :raises RunscError: they are unknown.
        """
        if self._inherited is None:
            self._inherited = read_defaults(self._entry)
        return self._inherited

    @contextlib.contextmanager
    def runsc(self, *words: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Prepare a command of runsc about the sandbox: its words, and arguments of a Popen.

        runsc is searched for: no record names a program to execute. It gets its state by a
        descriptor, under a name that is the same for all processes.

        :raises SandboxEnded: the sandbox has ended.
        :raises RunscError: there is no runsc.
        """
        if self._inside is None or self.has_ended():
            raise SandboxEnded.of(self.record.id)
        if self._runsc is None:
            self._runsc = find_runsc(os.environ)
        with self._shared.use() as (state, *_):
            yield (
                [self._runsc, f"--root={_HERE}", *words],
                {
                    "namespace": RunscNamespace(self._inside, hardening.for_run()),
                    "env": self._environ,
                    "cwd": f"/proc/self/fd/{state}",
                    "pass_fds": [state],
                },
            )

    @classmethod
    def attach(cls, id: str) -> DetachedSandbox:
        """Find a sandbox by its id.

        :raises RunscError: there is none.
        :raises NamespaceError: the state directory can't be used, or a call failed.
        """
        with contextlib.ExitStack() as undo:
            entry = undo.enter_context(find_detached(id))
            found = cls(entry)
            undo.pop_all()
        entry.unlock()
        return found

    @classmethod
    def start(
        cls,
        host: HostNamespace,
        files: SandboxDirectory,
        id: str,
        args: tuple[str, ...],
        how: Mapping[str, Any],
        timeout: float | None = None,
    ) -> DetachedSandbox:
        """Start a sandbox, and return when it runs.

        :param how: streams, and other arguments of a Popen.
        :param timeout: how long the start may take, in seconds.
        :raises TimeoutExpired: the start took longer.
        :raises RunscError: runsc failed, or the id is taken.
        :raises NamespaceError: a call failed, or the state directory can't be used.
        """
        entry = draft_detached(id)
        made = None
        try:
            with _starter(host, files, entry, how, timeout) as popen:
                entry.record = describe_detached(id, args, files.read_pid(), popen.pid)
                made = cls(entry, popen, host, files.inherited)
                entry.publish()
            entry.unlock()
            return made
        except BaseException:
            if made is not None:
                made.close()
            elif entry.fd >= 0:
                with entry:
                    entry.remove()
            raise

    def has_ended(self) -> bool:
        """Return whether the sandbox has ended."""
        with contextlib.suppress(ClosedError):
            if not self._has_ended:
                with self._shared.use() as (_, pidfd, *_others):
                    if not wait_readable(pidfd, timeout=0):
                        return False
                    self._see_end(pidfd)
        self._has_ended = True
        return True

    def ends_within(self, seconds: float) -> bool:
        """Return whether the sandbox ends within some seconds."""
        # There is no pidfd if the sandbox had ended already when it was found.
        if not self._has_ended:
            with contextlib.suppress(ClosedError), self._shared.use() as (_, pidfd, *_others):
                wait_readable(pidfd, timeout=seconds)
        return self.has_ended()

    def poll(self) -> int | None:
        """Return the exit status if the sandbox has ended: see :meth:`usernsctl.Sandbox.poll`."""
        return self._known_status() if self.has_ended() else None

    def wait(self, timeout: float | None) -> int:
        """Wait for the end of the sandbox: see :meth:`usernsctl.Sandbox.wait`."""
        self._await(timeout)
        return self._known_status()

    def communicate(self, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Write to the command and read its output: see :meth:`usernsctl.Sandbox.communicate`."""
        popen, told = self.popen, (None, None)
        begin = time.monotonic()

        def read() -> float | None:
            nonlocal told
            if popen is not None:
                told = self._streams.communicate(popen, input, timeout)
            return None if timeout is None else timeout - (time.monotonic() - begin)

        self._await(timeout, read)
        return told

    def _await(
        self, timeout: float | None, meanwhile: Callable[[], float | None] | None = None
    ) -> None:
        """Wait for the end, and learn the exit status from ``runsc wait``.

        :param meanwhile: is called once ``runsc wait`` runs; returns how long to wait from then on.
        :raises TimeoutExpired: the sandbox goes on.
        """
        with contextlib.suppress(SandboxEnded, ClosedError), contextlib.ExitStack() as held:
            command, arguments = held.enter_context(self._asking())
            end = held.enter_context(self._end())
            waiter = held.enter_context(Popen[bytes](command, **arguments))
            try:
                if meanwhile is not None:
                    timeout, meanwhile = meanwhile(), None
                if not wait_readable(end, timeout=timeout):
                    assert timeout is not None
                    raise TimeoutExpired(self.record.args, timeout)
                if self.has_ended() and self.status is None:
                    with contextlib.suppress(TimeoutExpired):
                        self._take_answer(waiter.communicate(timeout=_ANSWER_SECONDS)[0])
            finally:
                waiter.kill()
        if meanwhile is not None:  # the sandbox had ended before
            meanwhile()

    async def wait_async(self) -> int:
        """Wait for the end of the sandbox from asyncio."""
        with contextlib.suppress(SandboxEnded, ClosedError), contextlib.ExitStack() as held:
            command, arguments = held.enter_context(self._asking())
            end = held.enter_context(self._end())
            async with await aio.create_subprocess_exec(*command, **arguments) as waiter:
                await aio.wait_for_end(end)
                try:
                    if self.has_ended() and self.status is None:
                        answer = asyncio.wait_for(waiter.communicate(), _ANSWER_SECONDS)
                        with contextlib.suppress(TimeoutError):
                            self._take_answer((await answer)[0])
                finally:
                    waiter.kill()
        return self._known_status()

    @contextlib.contextmanager
    def _end(self) -> Iterator[int]:
        """Open a copy of the pidfd for a block, in which this object may be closed."""
        with self._shared.use() as (_, pidfd, *_others):
            copy = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            yield copy
        finally:
            os.close(copy)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Prepare the command ``runsc wait``, as :meth:`runsc` does."""
        with self.runsc("wait", self.record.id) as (command, arguments):
            yield command, {**arguments, "stdin": DEVNULL, "stdout": PIPE, "stderr": DEVNULL}

    def _take_answer(self, answer: bytes) -> None:
        """Read the exit status from the output of ``runsc wait``, if it has one."""
        with contextlib.suppress(LookupError, TypeError, ValueError):
            self.status = int(json.loads(answer)["exitStatus"])

    def _see_end(self, pidfd: int) -> None:
        """Learn the exit status from the process that the command ran in, and reap it."""
        status = exit_status(pidfd)
        if status is None and self._is_killed:
            status = 128 + signal.SIGKILL
        if self.status is None:
            self.status = status
        # Last: a thread that finds nothing to reap finds the status.
        reap(pidfd)

    def _known_status(self) -> int:
        if self.status is None:
            raise RunscError(
                f"the sandbox {self.record.id} has ended, and its exit status is not known: "
                "nobody waited for it then, or runsc did not tell",
                step="sandbox",
                cause="exit-status-unknown",
            )
        return self.status

    def kill(self) -> None:
        """Kill all processes of the sandbox."""
        if not self.has_ended():
            with contextlib.suppress(ClosedError), self._shared.use() as (_, pidfd, *_others):
                self._is_killed = True
                processes.kill(pidfd)

    def close(self) -> None:
        """Kill the sandbox, wait for its end, and remove its entry."""
        try:
            with contextlib.suppress(ClosedError), self._shared.use() as (_, *pidfds):
                self._end_and_remove(pidfds)
        finally:
            self.let_go()

    def _end_and_remove(self, pidfds: list[int]) -> None:
        # A process that has the lock ends the sandbox just now, and removes the entry.
        is_locked = False
        with self._unless_closed():
            is_locked = self._entry.lock()
        self.kill()
        end_processes(self.record.id, pidfds)
        self.has_ended()
        with self._unless_closed():
            if is_locked:
                try:
                    self._entry.remove()
                finally:
                    self._entry.unlock()

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Suppress errors in a block if a signal handler has closed the sandbox meanwhile.

        The handler has done then what the block was to do.
        """
        try:
            yield
        except (OSError, ValueError, NamespaceError):
            if self._entry.fd >= 0:
                raise

    def let_go(self) -> None:
        """Close the descriptors, and let the sandbox go on."""
        self._shared.close()
        if self._inside is not None:
            self._inside.close()
        if self.popen is not None:
            self._streams.close(self.popen)
        self._entry.close()


@contextlib.contextmanager
def _starter(
    host: HostNamespace,
    files: SandboxDirectory,
    entry: Entry[DetachedRecord],
    how: Mapping[str, Any],
    timeout: float | None,
) -> Iterator[Popen[bytes]]:
    """Start a sandbox by usernsctl-detach (csrc/programs/detach/main.c).

    If the block fails or this process ends before its end, usernsctl-detach ends the sandbox.
    """
    deadline = deadline_after(timeout)
    with contextlib.ExitStack() as opened:
        creator = os.pidfd_open(os.getpid())
        opened.callback(os.close, creator)
        ours, theirs = socket.socketpair()
        opened.enter_context(ours)
        numbers = [creator, theirs.fileno(), entry.fd]
        with theirs:
            popen = start_within(
                timeout,
                [
                    host.prepared.program("usernsctl-detach"),
                    *map(str, numbers),
                    entry.path,
                    *files.command(_HERE),
                ],
                namespace=RunscNamespace(host.namespace, host.restrictions),
                pass_fds=numbers,
                env=host.environ,
                cwd=f"/proc/self/fd/{entry.fd}/{STATE}",
                umask=PRIVATE_UMASK,
                # Signals of our terminal are not meant for the sandbox.
                start_new_session=True,
                **how,
            )
        try:
            if not wait_readable(ours.fileno(), popen.pidfd, timeout=seconds_left(deadline)):
                assert timeout is not None
                raise TimeoutExpired(popen.args, timeout)
            if not _is_ready(ours):
                raise files.failure(popen.wait())
            yield popen
            ours.send(b"+")
            if popen.wait() != 0:
                raise files.failure(popen.returncode)
        except BaseException:
            with contextlib.suppress(OSError):
                ours.send(b"-")
            popen.wait()
            close_streams(popen)
            raise


def _is_ready(connection: socket.socket) -> bool:
    """Read the byte that reports that the sandbox runs, if it is there."""
    connection.setblocking(False)
    # A fork of this process may hold the other end open.
    with contextlib.suppress(BlockingIOError):
        return bool(connection.recv(1))
    return False


def _namespace_of_runsc(pid: int, pidfd: int) -> Namespace | None:
    """Open the user namespace that runsc was started in: the parent of the sandbox's own.

    :param pidfd: a pidfd of the process.
    :returns: ``None`` if the sandbox has just ended.
    :raises NamespaceError: the namespace can't be opened.
    """
    try:
        own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # No other process gets its pid before it has ended.
        if wait_readable(pidfd, timeout=0):
            return None
        parent = parent_namespace(own)
    finally:
        os.close(own)
    try:
        return Namespace.from_fd(parent)
    finally:
        os.close(parent)
