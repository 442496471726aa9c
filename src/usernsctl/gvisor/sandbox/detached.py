"""Detached sandboxes, which keep running after the process that created them has exited."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import TYPE_CHECKING, Any

from usernsctl._lean import LateModule
from usernsctl._system import processes
from usernsctl._system.descriptors import (
    ClosedError,
    Shared,
    SharedDescriptors,
    above_stdio,
    deadline_after,
    open_owned,
    seconds_left,
    wait_readable,
)
from usernsctl._system.processes import exit_status, parent_namespace, reap
from usernsctl._system.records import Entry
from usernsctl.commands.popen import Popen, TimeoutExpired, start_within
from usernsctl.errors import NamespaceError, RunscError, SandboxEndedError
from usernsctl.gvisor.agent.start import ProcessDefaults
from usernsctl.gvisor.launch.network import hand_over
from usernsctl.gvisor.runsc.command import PRIVATE_UMASK, TIME_IS_OVER, returncode_of
from usernsctl.gvisor.runsc.container import ended_error
from usernsctl.gvisor.runsc.find import find_runsc, runsc_environment
from usernsctl.gvisor.sandbox.directory import (
    ERROR_BYTES,
    EndReport,
    PopenStreams,
    SandboxDirectory,
    close_streams,
)
from usernsctl.gvisor.sandbox.host_namespace import (
    HostNamespace,
    RunscNamespace,
    restrictions_of_runsc,
)
from usernsctl.gvisor.sandbox.records import (
    REFUSALS,
    STATE,
    DetachedRecord,
    SandboxEnd,
    await_ends,
    describe_detached,
    draft_detached,
    end_processes,
    find_detached,
    open_activity,
    open_reports,
    open_runsc_state,
    read_defaults,
    read_open_report,
)
from usernsctl.namespaces.namespace import Namespace

if TYPE_CHECKING:
    from usernsctl.commands import aio
    from usernsctl.gvisor.launch.limits import EnforcedLimits
    from usernsctl.gvisor.sandbox.ports import BoundPorts
    from usernsctl.network import refusals
    from usernsctl.network.ports import PublishedPort
    from usernsctl.network.proxy_process import ProxyProcess
else:
    aio = LateModule("usernsctl.commands.aio")
    refusals = LateModule("usernsctl.network.refusals")

# The path by which runsc opens the directory for its state. runsc stores the path of its socket in
# the state, so the path must be the same for all runsc commands of a sandbox. Therefore, the
# directory is their working directory.
_HERE = "/proc/self/cwd"


class DetachedSandbox:
    """A detached sandbox, which any process of the same user can use.

    :ivar record: the record of the sandbox.
    :ivar popen: the process of usernsctl-detach, with the caller's ends of the pipes to the
        command; ``None`` if the sandbox was found by its id.
    :ivar proxy: the reader of the table of denied connections, which the proxy for the names in
        `allow` writes; ``None`` if the sandbox has no proxy.
    :ivar rusage: always ``None``, because only a parent that waits for a process learns its
        resource usage.
    """

    rusage = None
    # A detached sandbox may have an idle timeout. Only the process that watches the sandbox knows
    # the timeout; open_activity() checks whether the activity file exists.
    counts_idle = True

    def __init__(
        self,
        entry: Entry[DetachedRecord],
        popen: Popen[bytes] | None = None,
        host: HostNamespace | None = None,
        inherited: ProcessDefaults | None = None,
        reports: Shared | None = None,
        *,
        is_limited: bool = True,
    ) -> None:
        """Open pidfds of the sandbox's processes, and its namespaces.

        :param host: the host of a sandbox that has just been started; ``None`` for a sandbox that
            was found.
        :param inherited: the settings that all commands of the sandbox share; ``None`` to read them
            when they are needed.
        :param reports: the open reports of the keeper (:func:`open_reports`), which the object
            closes; ``None`` to open them.
        :param is_limited: whether the sandbox can have limits.
        :raises ForeignProcessError: the record names a process that does not belong to the sandbox.
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
        self._end_report = EndReport(is_limited=is_limited)
        self._is_killed = False
        self._is_reported = False
        self._inside: Namespace | None = None
        self._reports = Shared("the sandbox", ())
        self.proxy: refusals.Reader | None = None
        state = open_runsc_state(entry).descriptor
        try:
            opened = self.record.open_processes()
        except BaseException:
            # Close the descriptor explicitly, because the error's traceback would keep it open.
            state.close()
            raise
        # A descriptor of the directory for runsc's state, followed by pidfds of those processes
        # that have not exited: the main process, the record's other processes, and the proxy.
        owners = [state, *(pidfd for pidfd in opened if pidfd is not None)]
        self._shared = SharedDescriptors("the sandbox", owners)
        running = opened[: len(self.record.processes)]
        self._process_count = sum(pidfd is not None for pidfd in running)
        self._has_main = opened[0] is not None
        self._has_ended = not self._has_main
        try:
            self._reports = open_reports(entry) if reports is None else reports
            if self.record.proxy is not None:
                self.proxy = refusals.Reader.open(REFUSALS, entry.directory)
            if opened[0] is not None:
                self._inside = _namespace_of_runsc(self.record.pid, opened[0].number)
        except BaseException:
            self.release()
            raise

    @property
    def inherited(self) -> ProcessDefaults:
        """The settings that all commands of the sandbox share.

        :raises RunscError: the state file of runsc can't be read.
        """
        if self._inherited is None:
            self._inherited = read_defaults(self._entry)
        return self._inherited

    @contextlib.contextmanager
    def runsc(self, *arguments: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Yield the argv of a runsc command for the sandbox, and keyword arguments for Popen.

        The runsc of the caller is used, because the record must not determine a program to execute.
        runsc's state directory is the working directory of the command.

        :param arguments: the arguments of runsc after the global options.
        :raises SandboxEndedError: the sandbox has ended.
        :raises RunscError: runsc was not found.
        """
        if self._inside is None or self.has_ended():
            raise self.end_error()
        if self._runsc is None:
            self._runsc = find_runsc(os.environ)
        with self._shared.use() as (number, *_), contextlib.ExitStack() as above:
            state = above_stdio(number, above)
            yield (
                [self._runsc, f"--root={_HERE}", *arguments],
                {
                    "namespace": RunscNamespace(self._inside, restrictions_of_runsc()),
                    "env": self._environ,
                    "cwd": f"/proc/self/fd/{state}",
                    "pass_fds": [state],
                },
            )

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """The published ports of the sandbox."""
        return self.record.ports

    @property
    def watcher(self) -> int:
        """The pid of the parent of the sandbox's processes on the host, their keeper.

        The keeper is a process of usernsctl-detach (csrc/programs/detach/main.c).

        :raises OSError: the sandbox has ended.
        """
        return processes.parent_of(self.record.pid)

    @property
    def is_killed(self) -> bool:
        """True if the sandbox has ended because :meth:`kill` killed it."""
        return self._is_killed and self.status == -signal.SIGKILL

    def limit_error(self) -> RunscError | None:
        """Return an error if a limit or lack of memory has killed the sandbox, else None."""
        if self.has_ended():
            self._read_report()
        return self._end_report.error()

    def awaited_limit_error(self, *, is_gone: bool = False) -> RunscError | None:
        """Wait for the end of a sandbox that may just have exceeded a limit; return limit_error().

        :param is_gone: whether the exit status of the command is unknown; the sandbox has then
            probably ended.
        """
        self._end_report.await_end(self.ends_within, is_gone=is_gone)
        return self.limit_error()

    def open_activity(self) -> Shared | None:
        """Open the sandbox's activity file; return None if the sandbox has no idle timeout."""
        # The activity file is in the parent of runsc's state directory. Return None if another
        # thread has closed or released this object: no command can be started any more then.
        with contextlib.suppress(ClosedError), self._shared.use() as (state, *_):
            return open_activity("../activity", state)
        return None

    def end_error(self) -> SandboxEndedError:
        """Return the error for a command that failed because its sandbox has ended."""
        return ended_error(self.record.id, self.limit_error())

    @classmethod
    def attach(cls, id: str) -> DetachedSandbox:
        """Return the detached sandbox with the id `id`.

        :raises RunscError: no sandbox has this id.
        :raises NamespaceError: the state directory can't be used, or a system call failed.
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
        limits: EnforcedLimits | None = None,
        ports: BoundPorts | None = None,
    ) -> DetachedSandbox:
        """Start a sandbox, and return it once it runs.

        :param how: the standard streams, and other keyword arguments for Popen.
        :param timeout: the timeout for starting the sandbox, in seconds; ``None`` for no timeout.
        :param limits: the limits of the sandbox, or ``None``.
        :param ports: the sockets of the published ports, or ``None``.
        :raises TimeoutExpired: the start took more than `timeout` seconds.
        :raises RunscError: runsc failed, or another detached sandbox has the same id.
        :raises NamespaceError: a system call failed, or the state directory can't be used.
        """
        entry = draft_detached(id)
        sandbox = reports = None
        try:
            reports = open_reports(entry)
            with (
                _started_proxy(host, entry, id) as proxy,
                _starter(host, files, entry, reports, how, timeout, limits, ports, proxy) as popen,
            ):
                pid = files.read_pid()
                published = () if ports is None else ports.published
                proxy_pid = None if proxy is None else proxy.pid
                entry.record = describe_detached(id, args, pid, popen.pid, published, proxy_pid)
                inherited, limited = files.inherited, bool(limits)
                sandbox = cls(entry, popen, host, inherited, reports, is_limited=limited)
                entry.publish()
            entry.unlock()
            return sandbox
        except BaseException:
            if sandbox is not None:
                sandbox.close()
            else:
                if reports is not None:
                    reports.close()
                if entry.fd >= 0:
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
        """Return whether the sandbox ends within `seconds`."""
        # Do not wait for a sandbox that has ended: if it ended before this object was created,
        # self._shared has no pidfd of the main process.
        if not self._has_ended:
            with contextlib.suppress(ClosedError), self._shared.use() as (_, pidfd, *_others):
                wait_readable(pidfd, timeout=seconds)
        return self.has_ended()

    def poll(self) -> int | None:
        """Return the exit status if the sandbox has ended: see :meth:`usernsctl.Sandbox.poll`."""
        return self._known_status() if self.has_ended() else None

    def wait(self, timeout: float | None) -> int:
        """Wait until the sandbox has ended: see :meth:`usernsctl.Sandbox.wait`."""
        self._wait_for_end(timeout, deadline_after(timeout))
        return self._known_status()

    def communicate(self, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Write to the command and read its output: see :meth:`usernsctl.Sandbox.communicate`."""
        output = (None, None)
        deadline = deadline_after(timeout)
        if self.popen is not None:
            output = self._streams.communicate(self.popen, input, timeout)
        self._wait_for_end(timeout, deadline)
        return output

    def _wait_for_end(self, timeout: float | None, deadline: float | None) -> None:
        """Wait until the sandbox has ended.

        :raises TimeoutExpired: the sandbox still runs at the deadline.
        """
        if not self._has_ended:
            with contextlib.suppress(ClosedError), self._end() as pidfd:
                if not wait_readable(pidfd.fileno(), timeout=seconds_left(deadline)):
                    assert timeout is not None
                    raise TimeoutExpired(self.record.args, timeout)
        if self.has_ended():
            self._read_report()

    async def wait_async(self) -> int:
        """Wait until the sandbox has ended, without blocking the event loop."""
        if not self._has_ended:
            with contextlib.suppress(ClosedError), self._end() as pidfd:
                await aio.wait_for_end(pidfd.fileno())
        self.has_ended()
        return self._known_status()

    def _end(self) -> FileIO:
        """Return a duplicate of the pidfd of the sandbox's main process.

        The duplicate stays open even if another thread closes this object.
        """
        with self._shared.use() as (_, pidfd, *_others):
            return open_owned(fcntl.fcntl, pidfd, fcntl.F_DUPFD_CLOEXEC, 3)

    def _see_end(self, pidfd: int) -> None:
        """Read the exit status of the process in which the command ran, and reap that process."""
        status = exit_status(pidfd)
        if status is None and self._is_killed:
            status = -signal.SIGKILL
        if self.status is None and status is not None:
            self.status = returncode_of(status)
        # Set self.status before the process is reaped, because another thread reads self.status as
        # soon as the process was reaped.
        reap(pidfd)

    def _known_status(self) -> int:
        self._read_report()
        if self.status is None:
            raise RunscError(
                f"the sandbox {self.record.id} has ended, and its exit status is not known: "
                "the process that waited for the sandbox was killed",
                step="sandbox",
                cause="exit-status-unknown",
            )
        return self.status

    def _read_report(self) -> None:
        """Read the exit status of the sandbox and the reason for its end.

        The sandbox's keeper (csrc/programs/detach/main.c) writes both before it exits.
        """
        if self._is_reported:
            return
        with (
            contextlib.suppress(ClosedError),
            self._shared.use() as (_, *pidfds),
            self._reports.use() as reports,
        ):
            # Do not wait for the proxy, whose pidfd is the last. If the proxy were stopped
            # (SIGSTOP), the wait would last until the timeout.
            ended = await_ends(pidfds[: self._process_count])
            # Read the exit status first. The keeper writes the status last, so if there is a
            # status, the report of the end is complete.
            status = read_open_report(reports[0])
            self._end_report.end = _end_in(self._reports)
            if status.isdecimal():
                self.status = returncode_of(int(status))
            if self.status == TIME_IS_OVER and self._end_report.end is not None:
                self.status = -signal.SIGKILL
            # On a busy host, the keeper may not have written the status yet. A later call then
            # reads the files again.
            self._is_reported = ended or bool(status)

    def kill(self) -> None:
        """Kill all processes of the sandbox; return without waiting for their exit."""
        if not self.has_ended():
            with contextlib.suppress(ClosedError), self._shared.use() as (_, pidfd, *_others):
                self._is_killed = True
                processes.kill(pidfd)

    def close(self) -> None:
        """Kill the sandbox, wait for its end, and remove its entry in the state directory."""
        try:
            with contextlib.suppress(ClosedError), self._shared.use() as (_, *pidfds):
                self._end_and_remove(pidfds)
        finally:
            self.release()

    def _end_and_remove(self, pidfds: list[int]) -> None:
        # Do not remove an entry that another process has locked: that process is ending the
        # sandbox, and will remove the entry.
        is_locked = False
        with self._unless_closed():
            is_locked = self._entry.lock()
        self.kill()
        count = int(self._has_main)
        end_processes(self.record.id, pidfds[0] if count else None, pidfds[count:])
        self.has_ended()
        with self._unless_closed():
            if is_locked:
                try:
                    self._entry.remove()
                finally:
                    self._entry.unlock()

    @contextlib.contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Suppress errors in the body of the ``with`` statement once the entry was closed.

        A signal handler may call :meth:`close` at any time.
        """
        try:
            yield
        except (OSError, ValueError, NamespaceError):
            if self._entry.fd >= 0:
                raise

    def release(self) -> None:
        """Close the descriptors; the sandbox keeps running."""
        self._shared.close()
        self._reports.close()
        if self._inside is not None:
            self._inside.close()
        if self.proxy is not None:
            self.proxy.close()
        if self.popen is not None:
            self._streams.close(self.popen)
        self._entry.close()


@contextlib.contextmanager
def _started_proxy(
    host: HostNamespace, entry: Entry[DetachedRecord], id: str
) -> Iterator[ProxyProcess | None]:
    """Start the proxy if the SandboxHost has names in `allow`.

    If the body of the ``with`` statement raises, the proxy is killed. Otherwise the proxy runs
    until usernsctl-network, which serves the sandbox's network, closes its pipe to the proxy.
    """
    if not host.request.allow:
        yield None
        return
    proxy = host.start_proxy(id, refusals.create_file(REFUSALS, entry.fd))
    assert proxy is not None
    try:
        yield proxy
    except BaseException:
        proxy.close()
        raise
    proxy.release()


@contextlib.contextmanager
def _starter(
    host: HostNamespace,
    files: SandboxDirectory,
    entry: Entry[DetachedRecord],
    reports: Shared,
    how: Mapping[str, Any],
    timeout: float | None,
    limits: EnforcedLimits | None,
    ports: BoundPorts | None,
    proxy: ProxyProcess | None,
) -> Iterator[Popen[bytes]]:
    """Start a sandbox with usernsctl-detach (csrc/programs/detach/main.c).

    usernsctl-detach kills the sandbox if the ``with`` body raises, or if this process exits in it.
    """
    deadline = deadline_after(timeout)
    disk = f"{entry.path}/disk" if limits is not None and limits.disk else None
    with contextlib.ExitStack() as opened:
        creator = opened.enter_context(open_owned(os.pidfd_open, os.getpid()))
        ours, theirs = map(opened.enter_context, socket.socketpair())
        with theirs, contextlib.ExitStack() as above:
            inherited = (creator.fileno(), theirs.fileno(), entry.fd)
            numbers = [above_stdio(fd, above) for fd in inherited]
            fds = [*numbers]
            accepts = [] if ports is None else ports.options(fds, above)
            command = files.command(_HERE, disk, accepts)
            if proxy is not None:
                command = hand_over(command, proxy, fds, above, seconds_left(deadline))
            popen = start_within(
                seconds_left(deadline),
                [
                    host.prepared.program("usernsctl-detach"),
                    *map(str, numbers),
                    "" if limits is None else limits.words,
                    entry.path,
                    files.pid_file,
                    *command,
                ],
                namespace=RunscNamespace(host.namespace, host.restrictions_with(accepts)),
                pass_fds=fds,
                env=host.environ,
                cwd=f"/proc/self/fd/{numbers[-1]}/{STATE}",
                umask=PRIVATE_UMASK,
                # In a new session (setsid(2)), it gets no signals of the caller's terminal.
                start_new_session=True,
                **how,
            )
        try:
            answer = _await_answer(ours, popen, timeout, deadline)
            if answer == b"+":
                yield popen
                ours.send(b"+", socket.MSG_NOSIGNAL)
            if answer != b"+" or popen.wait() != 0:
                raise files.failure(popen.wait(), answer, _end_in(reports), entry.path)
        except BaseException:
            with contextlib.suppress(OSError):
                ours.send(b"-", socket.MSG_NOSIGNAL)
            popen.wait()
            close_streams(popen)
            raise


def _await_answer(
    connection: socket.socket, popen: Popen[bytes], timeout: float | None, deadline: float | None
) -> bytes:
    """Return the report of usernsctl-detach: ``+``, the fields of an error, or an empty string.

    :raises TimeoutExpired: usernsctl-detach reported nothing before the deadline.
    """
    if not wait_readable(connection.fileno(), popen.pidfd, timeout=seconds_left(deadline)):
        assert timeout is not None
        raise TimeoutExpired(popen.args, timeout)
    connection.setblocking(False)
    # Do not block: if usernsctl-detach has exited, a forked child of this process may still have
    # the other end of the connection open.
    with contextlib.suppress(BlockingIOError):
        return connection.recv(ERROR_BYTES)
    return b""


def _end_in(reports: Shared) -> SandboxEnd | None:
    """Return why the keeper has killed the sandbox, or ``None``."""
    with reports.use() as (_, end):
        return SandboxEnd.parse(read_open_report(end))


def _namespace_of_runsc(pid: int, pidfd: int) -> Namespace | None:
    """Open the user namespace in which runsc was started.

    That namespace is the parent of the user namespace that runsc has created for the sandbox.

    :param pidfd: a pidfd of `pid`, a process in the sandbox's user namespace.
    :returns: the namespace, or ``None`` if the sandbox has just ended.
    :raises NamespaceError: the namespace can't be opened.
    """
    try:
        own = open_owned(os.open, f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with own:
        # If the process still runs, its pid was not reused, so `own` is the user namespace of the
        # process.
        if wait_readable(pidfd, timeout=0):
            return None
        parent = parent_namespace(own.fileno())
    try:
        return Namespace.from_fd(parent.number)
    finally:
        parent.close()
