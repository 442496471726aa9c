"""A sandbox that lives on when its creator ends: nobody holds it, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from usernsctl import hardening
from usernsctl._system import processes
from usernsctl._system.descriptors import ClosedError, Shared, wait_readable
from usernsctl._system.processes import exit_status, parent_namespace, reap
from usernsctl._system.records import Entry
from usernsctl.commands import aio
from usernsctl.commands.popen import DEVNULL, PIPE, Popen, TimeoutExpired, start_within, time_left
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

# The directory for runsc's state, as each of its commands about one sandbox is told of it: the one
# that it is started in. runsc puts the name of its socket there into that state.
_HERE = "/proc/self/cwd"

# So long may `runsc wait` take to tell how a sandbox has ended that is gone, in seconds.
_ANSWER_SECONDS = 10


class DetachedSandbox:
    """A detached sandbox, seen from any process of the same user.

    :ivar record: what is known of it.
    :ivar popen: what has started it, with our ends of its pipes; ``None`` if that was not us.
    """

    def __init__(
        self,
        entry: Entry[DetachedRecord],
        popen: Popen[bytes] | None = None,
        host: HostNamespace | None = None,
        inherited: ProcessDefaults | None = None,
    ) -> None:
        """Hold it by descriptors.

        :param host: what it was started in, if that was just now.
        :param inherited: what all its commands have in common, if that is known.
        :raises Stranger: what is known of it is not true.
        :raises NamespaceError: the kernel refused.
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
        # The directory for runsc's state; then the process that the command runs in, unless that
        # has ended, and runsc's others.
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
        """What all commands of the sandbox have in common.

        :raises RunscError: it can't be told.
        """
        if self._inherited is None:
            self._inherited = read_defaults(self._entry)
        return self._inherited

    @contextlib.contextmanager
    def runsc(self, *words: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """A command of runsc about the sandbox, and what a Popen needs for it, for a block.

        runsc is looked for anew: nothing is executed because a file says so. It is given its state
        by a descriptor, and knows it by the same name whoever has started it.

        :raises SandboxEnded: it has ended.
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
        """Find one by its id.

        :raises RunscError: there is none.
        :raises NamespaceError: the state directory can't be used, or the kernel refused.
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
        """Start one, and return when it runs.

        :param how: streams, and other arguments of a Popen.
        :param timeout: how long that may take, in seconds.
        :raises TimeoutExpired: it took longer.
        :raises RunscError: runsc failed, or the id is taken.
        :raises NamespaceError: the kernel refused, or the state directory can't be used.
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
        with contextlib.suppress(ClosedError):  # it was let go of
            if not self._has_ended:
                with self._shared.use() as (_, pidfd, *_others):
                    if not wait_readable(pidfd, timeout=0):
                        return False
                    self._see_end(pidfd)
        self._has_ended = True
        return True

    def ends_within(self, seconds: float) -> bool:
        """Whether it has ended, or does so within this time."""
        # Of one that had ended when it was found, there is no pidfd.
        if not self._has_ended:
            with contextlib.suppress(ClosedError), self._shared.use() as (_, pidfd, *_others):
                wait_readable(pidfd, timeout=seconds)
        return self.has_ended()

    def poll(self) -> int | None:
        """Look whether it has ended: see :meth:`usernsctl.Sandbox.poll`."""
        return self._known_status() if self.has_ended() else None

    def wait(self, timeout: float | None) -> int:
        """Wait for its end, for `timeout` seconds: see :meth:`usernsctl.Sandbox.wait`."""
        self._await(timeout)
        return self._known_status()

    def communicate(self, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Write, read and wait: see :meth:`usernsctl.Sandbox.communicate`."""
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
        """Wait for the end, and learn the exit status if that is possible.

        :param meanwhile: is called once it will be learned; returns how long to wait from then on.
        :raises TimeoutExpired: it took longer.
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
        if meanwhile is not None:  # it had ended before
            meanwhile()

    async def wait_async(self) -> int:
        """Wait for its end from asyncio."""
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
        """A descriptor that can be read once the sandbox has ended, even if it is closed."""
        with self._shared.use() as (_, pidfd, *_others):
            copy = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            yield copy
        finally:
            os.close(copy)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """The command that learns the exit status, as :meth:`runsc` has it."""
        with self.runsc("wait", self.record.id) as (command, arguments):
            yield command, {**arguments, "stdin": DEVNULL, "stdout": PIPE, "stderr": DEVNULL}

    def _take_answer(self, answer: bytes) -> None:
        """Learn the exit status from what ``runsc wait`` has printed, if it knew."""
        with contextlib.suppress(LookupError, TypeError, ValueError):
            self.status = int(json.loads(answer)["exitStatus"])

    def _see_end(self, pidfd: int) -> None:
        """Learn what there is to learn from the process that the command ran in."""
        status = exit_status(pidfd)
        if status is None and self._is_killed:
            status = 128 + signal.SIGKILL
        if self.status is None:
            self.status = status
        # Who finds nothing to collect finds the status that was learned before.
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
        """End all that is in the sandbox, at once."""
        if not self.has_ended():
            with contextlib.suppress(ClosedError), self._shared.use() as (_, pidfd, *_others):
                self._is_killed = True
                processes.kill(pidfd)

    def close(self) -> None:
        """End it, and remove what is known of it."""
        try:
            with contextlib.suppress(ClosedError), self._shared.use() as (_, *pidfds):
                self._end_and_remove(pidfds)
        finally:
            self.let_go()

    def _end_and_remove(self, pidfds: list[int]) -> None:
        # If somebody else ends it just now, he removes what is known of it.
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
        """For a block with the sandbox's directory, which a handler of signals may close.

        Then the handler has done all that is to be done.
        """
        try:
            yield
        except (OSError, ValueError, NamespaceError):
            if self._entry.fd >= 0:
                raise

    def let_go(self) -> None:
        """Close our descriptors, and leave the sandbox alone."""
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
    """Have a sandbox started. It stays only if the block comes to its end.

    Until then, the death of this process is the end of the sandbox, too
    (csrc/programs/detach/main.c).
    """
    deadline = None if timeout is None else time.monotonic() + timeout
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
                # What a terminal sends to us is not meant for it.
                start_new_session=True,
                **how,
            )
        try:
            if not wait_readable(ours.fileno(), popen.pidfd, timeout=time_left(deadline)):
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
    """Whether there is the byte that tells that the sandbox runs."""
    connection.setblocking(False)
    # A fork of this process may hold the other end open.
    with contextlib.suppress(BlockingIOError):
        return bool(connection.recv(1))
    return False


def _namespace_of_runsc(pid: int, pidfd: int) -> Namespace | None:
    """The user namespace that runsc was started in: the parent of the sandbox's own.

    :param pidfd: of the process.
    :returns: ``None`` if the sandbox has just ended.
    :raises NamespaceError: it can't be had.
    """
    try:
        own = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Nobody else has its pid as long as it has not ended.
        if wait_readable(pidfd, timeout=0):
            return None
        parent = parent_namespace(own)
    finally:
        os.close(own)
    try:
        return Namespace.from_fd(parent)
    finally:
        os.close(parent)
