"""A sandbox that is killed when the process that started it exits."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
import subprocess
import time
import weakref
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import TYPE_CHECKING, Any

from usernsctl import _core
from usernsctl._lean import LateModule
from usernsctl._system import processes
from usernsctl._system.descriptors import (
    ClosedError,
    Shared,
    above_stdio,
    deadline_after,
    open_owned,
    pipe,
    seconds_left,
    wait_readable,
)
from usernsctl._system.processes import children_of
from usernsctl.commands.popen import Popen, TimeoutExpired, start_within
from usernsctl.errors import NamespaceError, RunscError, SandboxEndedError
from usernsctl.gvisor.agent.start import ProcessDefaults
from usernsctl.gvisor.launch.network import hand_over
from usernsctl.gvisor.result import Usage
from usernsctl.gvisor.runsc.command import PRIVATE_UMASK, TIME_IS_OVER, returncode_of
from usernsctl.gvisor.runsc.container import ended_error
from usernsctl.gvisor.sandbox.directory import (
    ERROR_BYTES,
    EndReport,
    PopenStreams,
    SandboxDirectory,
)
from usernsctl.gvisor.sandbox.host_namespace import HostNamespace, RunscNamespace
from usernsctl.gvisor.sandbox.records import SandboxEnd
from usernsctl.namespaces.namespace import Namespace

if TYPE_CHECKING:
    from usernsctl.commands import aio
    from usernsctl.gvisor.launch.limits import EnforcedLimits
    from usernsctl.gvisor.sandbox.ports import BoundPorts
    from usernsctl.network.ports import PublishedPort
    from usernsctl.network.proxy_process import ProxyProcess
else:
    aio = LateModule("usernsctl.commands.aio")

# The timeout for usernsctl-init to exit, in seconds. As PID 1, it exits only after this process has
# reaped its other children in the PID namespace. If only an event loop of this thread can reap such
# a child, a wait without a timeout would never end, because the wait blocks the event loop.
_END_SECONDS = 5
# The interval at which other children are reaped during the wait for usernsctl-init, in seconds.
_LOOK_SECONDS = 0.01

# The timeout, in seconds, for an exiting process to become a zombie after it has left its
# namespaces.
_EXIT_SECONDS = 5


class AttachedSandbox:
    """A running sandbox that is killed when usernsctl-init, a child of this process, exits.

    usernsctl-init exits when the sandbox ends. Usually usernsctl-init is PID 1 of a PID namespace,
    so the kernel kills all processes of the sandbox when usernsctl-init exits.

    A new PID namespace is not possible if parts of the existing /proc are overmounted, as in a
    container: runsc needs a procfs of its own PID namespace, and the kernel refuses to mount one.
    usernsctl-init is then an ordinary process. It kills its descendants when it receives SIGTERM,
    or when its creator exits.

    :ivar popen: the process of usernsctl-init.
    :ivar network: the network, one of :data:`usernsctl.gvisor.runsc.command.NETWORKS`, or a network
        that :func:`usernsctl.gvisor.launch.network.with_network` has chosen.
    :ivar ports: the published ports.
    :ivar proxy: the proxy that connects only to the names in `allow`, or ``None``.
    """

    popen: Popen[Any]
    network: str

    def __init__(
        self,
        host: HostNamespace,
        files: SandboxDirectory,
        how: Mapping[str, Any],
        timeout: float | None = None,
        limits: EnforcedLimits | None = None,
        ports: BoundPorts | None = None,
    ) -> None:
        """Start a sandbox, and return once it runs.

        :param how: the standard streams, and other keyword arguments for Popen.
        :param timeout: the timeout for starting the sandbox, in seconds; ``None`` for no timeout.
        :param limits: the limits of the sandbox, or ``None``.
        :param ports: the sockets of the published ports, or ``None``.
        :raises TimeoutExpired: the start took more than `timeout` seconds.
        :raises RunscError: runsc failed.
        :raises NamespaceError: a system call failed.
        """
        self._id = files.id
        self._state = f"{files.inside}/state"
        self._runsc = [host.runsc, f"--root={self._state}"]
        self._files = files
        self.ports: tuple[PublishedPort, ...] = () if ports is None else ports.published
        self._environ = host.environ
        self._restrictions = host.restrictions
        self._streams = PopenStreams()
        self._inside: Namespace | None = None
        self._end = EndReport(is_limited=bool(limits))
        self._groups = 0 if limits is None else limits.groups
        self.counts_idle: bool = limits is not None and limits.get("idle_timeout") is not None
        self._is_killed = False
        self._commands: weakref.WeakSet[Popen[Any]] = weakref.WeakSet()
        self._is_init = host.prepared.can_mount_proc
        # A pidfd of the sandbox's main process, only if usernsctl-init is not PID 1 of a PID
        # namespace: in that case, the sandbox survives a SIGKILL to usernsctl-init.
        self._shared = Shared("the sandbox", [])
        with contextlib.ExitStack() as failed:
            self.proxy: ProxyProcess | None = host.start_proxy()
            if self.proxy is not None:
                failed.callback(self.proxy.close)
            try:
                self._start(host, files, how, timeout, limits, ports)
            except BaseException:
                if hasattr(self, "popen"):
                    self.close()
                raise
            failed.pop_all()

    def _start(
        self,
        host: HostNamespace,
        files: SandboxDirectory,
        how: Mapping[str, Any],
        timeout: float | None,
        limits: EnforcedLimits | None,
        ports: BoundPorts | None,
    ) -> None:
        """Start usernsctl-init, and wait until the sandbox runs."""
        deadline = deadline_after(timeout)
        with contextlib.ExitStack() as opened:
            creator = opened.enter_context(open_owned(os.pidfd_open, os.getpid()))
            ready, theirs = map(opened.enter_context, pipe(os.O_NONBLOCK))
            with contextlib.ExitStack() as given:
                fds = [above_stdio(file.fileno(), given) for file in (creator, theirs)]
                words = "" if limits is None else limits.words
                disk = f"{files.inside}/disk" if limits is not None and limits.disk else None
                accepts = [] if ports is None else ports.options(fds, given)
                self.network = host.network_with(accepts)[0]
                command = files.command(self._state, disk, accepts)
                args = [*map(str, fds[:2]), words, files.pid_file, *command]
                if self.proxy is not None:
                    # Wait until the proxy is ready, because commands of the sandbox may use it at
                    # once.
                    args = hand_over(args, self.proxy, fds, given, seconds_left(deadline))
                place = RunscNamespace(
                    host.namespace, host.restrictions_with(accepts), mount_proc=self._is_init
                )
                started = {**how, "pass_fds": fds, "namespace": place}
                self.popen = self._start_init(host, args, seconds_left(deadline), started)
            theirs.close()
            if self.proxy is not None:
                # Close this process's copy of the socket: the proxy exits if all copies are closed
                # before the sandbox's network is created.
                self.proxy.handover.close()
            self._wait_until_ready(ready, files, timeout, deadline)
        if not self._is_init:
            self._open_sandbox(files.read_pid())
        self._inside = self._open_namespace()

    def _start_init(
        self,
        host: HostNamespace,
        args: list[str],
        timeout: float | None,
        how: Mapping[str, Any],
    ) -> Popen[Any]:
        """Start usernsctl-init, and return its process.

        :param args: the arguments of usernsctl-init.
        :param how: the standard streams, the namespace, and other keyword arguments for Popen.
        """
        return start_within(
            timeout,
            [host.prepared.program("usernsctl-init"), *args],
            # Create a mount namespace, so that, when the sandbox ends, the kernel removes the
            # mounts that runsc leaves in its state directory (null-netns, since release 20260810).
            mount=True,
            pid=self._is_init,
            # As PID 1 of a PID namespace, usernsctl-init needs no session of its own: the kernel
            # discards the signals of the caller's terminal, such as SIGINT, for which PID 1 has no
            # handler (pid_namespaces(7)).
            start_new_session=not self._is_init,
            env=host.environ,
            cwd="/",
            umask=PRIVATE_UMASK,
            **how,
        )

    def _wait_until_ready(
        self, ready: FileIO, files: SandboxDirectory, timeout: float | None, deadline: float | None
    ) -> None:
        """Wait until usernsctl-init reports that the sandbox runs.

        :param ready: the pipe to which usernsctl-init writes ``+`` when the sandbox runs, or the
            fields of an error.
        :raises TimeoutExpired: usernsctl-init reported nothing before the deadline.
        :raises UsernsError: usernsctl-init has exited.
        """
        if not wait_readable(ready.fileno(), self.popen.pidfd, timeout=seconds_left(deadline)):
            assert timeout is not None
            raise TimeoutExpired(self.popen.args, timeout)
        answer = ready.read(ERROR_BYTES)
        if answer == b"+":
            return
        status = self.popen.wait()
        raise files.failure(status, answer or b"")

    def _open_sandbox(self, pid: int) -> None:
        """Open a pidfd of `pid`, the sandbox's main process, unless that process has exited."""
        try:
            pidfd = open_owned(os.pidfd_open, pid)
        except ProcessLookupError:
            return
        with pidfd:
            # A child of usernsctl-init with this pid is the main process, so the pid was not
            # reused: usernsctl-init exits as soon as it has reaped the main process.
            if pid in children_of(self.popen.pid):
                # Duplicate the pidfd to a number above 2. If this process has closed a standard
                # stream, the pidfd may have the stream's number, and commands would inherit it.
                above = map(fcntl.fcntl, [pidfd.fileno()], [fcntl.F_DUPFD_CLOEXEC], [3])
                self._shared = Shared("the sandbox", above)

    def _open_namespace(self) -> Namespace | None:
        """Open the namespaces of usernsctl-init, in which later runsc commands run.

        :returns: the namespaces, or ``None`` if the sandbox has already ended.
        """
        try:
            return Namespace.from_pid(self.popen.pid)
        except NamespaceError as error:
            if error.cause != "target-gone":
                raise
            # usernsctl-init may be exiting: a process leaves its namespaces before it can be
            # reaped.
            if not wait_readable(self.popen.pidfd, timeout=_EXIT_SECONDS):
                raise
            self.popen.wait()
            return None

    @functools.cached_property
    def inherited(self) -> ProcessDefaults:
        """The settings that all commands of the sandbox share."""
        return self._files.inherited

    @property
    def status(self) -> int | None:
        """The exit status, or -N if signal N killed the command.

        ``None`` until the sandbox has been waited for.
        """
        status = self.popen.returncode
        if status == TIME_IS_OVER and self.limit_error() is not None:
            return -signal.SIGKILL
        return None if status is None else returncode_of(status)

    @property
    def watcher(self) -> int:
        """The pid of usernsctl-init, the parent of the sandbox's main processes."""
        return self.popen.pid

    @property
    def is_killed(self) -> bool:
        """True if the sandbox has ended because :meth:`kill` killed it."""
        return self._is_killed and self.status == -signal.SIGKILL

    @property
    def rusage(self) -> Usage | None:
        """The resource usage of the sandbox's processes; ``None`` until the end was waited for."""
        usage = self.popen._usage
        return None if usage is None else Usage(*usage)

    def has_ended(self) -> bool:
        """Return whether the sandbox has ended."""
        return self.popen.poll() is not None

    def limit_error(self) -> RunscError | None:
        """Return an error if a limit or lack of memory has killed the sandbox, else None."""
        if self._end.end is None and self.has_ended():
            # Read the reason now, before the files of the sandbox are removed.
            self._end.end = self._files.read_end()
        return self._end.error()

    def awaited_limit_error(self, *, is_gone: bool = False) -> RunscError | None:
        """Wait for the end of a sandbox that may just have exceeded a limit; return limit_error().

        :param is_gone: whether the exit status of the command is unknown; the sandbox has then
            probably ended.
        """
        self._end.await_end(self.ends_within, is_gone=is_gone)
        return self.limit_error()

    def open_activity(self) -> Shared | None:
        """Open the sandbox's activity file; return None if the sandbox has no idle timeout."""
        return self._files.open_activity() if self.counts_idle else None

    def end_by(self, end: SandboxEnd) -> None:
        """Kill the sandbox because of a limit that usernsctl-init does not enforce."""
        if not self.has_ended():
            self._end.end = end
            self.kill()

    def end_error(self) -> SandboxEndedError:
        """Return the error for a command that failed because its sandbox has ended."""
        return ended_error(self._id, self.limit_error())

    def ends_within(self, seconds: float) -> bool:
        """Return whether the sandbox ends within `seconds`."""
        with contextlib.suppress(TimeoutExpired):
            self.popen.wait(seconds)
        return self.has_ended()

    def poll(self) -> int | None:
        """Return the exit status if the sandbox has ended: see :meth:`usernsctl.Sandbox.poll`."""
        self.popen.poll()
        return self.status

    def wait(self, timeout: float | None) -> int:
        """Wait until the sandbox has ended: see :meth:`usernsctl.Sandbox.wait`."""
        self.popen.wait(timeout)
        status = self.status
        assert status is not None
        return status

    def communicate(self, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Write to the command and read its output: see :meth:`usernsctl.Sandbox.communicate`."""
        return self._streams.communicate(self.popen, input, timeout)

    async def wait_async(self) -> int:
        """Wait until the sandbox has ended, without blocking the event loop."""
        if not self.has_ended():
            await aio.wait_for_end(self.popen.pidfd)
        return self.wait(None)

    def kill(self) -> None:
        """Kill all processes of the sandbox; return without waiting for their exit."""
        self._is_killed = True
        if self._is_init:
            self.popen.kill()
            return
        self.popen.terminate()
        with contextlib.suppress(ClosedError), self._shared.use() as pidfds:
            for pidfd in pidfds:
                processes.kill(pidfd)

    @contextlib.contextmanager
    def runsc(self, *arguments: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """Yield the argv of a runsc command for the sandbox, and keyword arguments for Popen.

        :param arguments: the arguments of runsc after the global options.
        :raises SandboxEndedError: the sandbox has ended.
        """
        if self._inside is None or self.has_ended():
            raise self.end_error()
        place = RunscNamespace(self._inside, self._restrictions)
        place.commands = self._commands
        yield (
            [*self._runsc, *arguments],
            {
                "namespace": place,
                "env": self._environ,
                "cwd": "/",
                "pass_fds": [],
            },
        )

    def close(self) -> None:
        """Kill the sandbox, wait until it has ended, and close the descriptors."""
        try:
            self.kill()
            self._wait_for_end()
        finally:
            if self.proxy is not None:
                self.proxy.close()
            self.release()

    def _wait_for_end(self) -> None:
        """Reap usernsctl-init, but first this process's other children in the same PID namespace.

        PID 1 exits only after all other processes of its namespace were reaped (pid_namespaces(7)).
        An event loop of this thread can't reap the processes that this process has started there,
        because this call blocks the event loop.
        """
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            for command in list(self._commands):
                command.poll()
            # Reap the children in subprocess's list of children whose Popen was garbage collected,
            # for example because a signal handler raised an exception during the start.
            subprocess._cleanup()  # type: ignore[attr-defined]
            with contextlib.suppress(TimeoutExpired):
                self.popen.wait(_LOOK_SECONDS)
                # Remove the sandbox's cgroups, which usernsctl-init leaves behind if it is killed
                # by SIGKILL.
                _core.sweep_groups(self._groups)
                return

    def release(self) -> None:
        """Close the descriptors; the sandbox keeps running."""
        self._shared.close()
        self._streams.close(self.popen)
        if self._inside is not None:
            self._inside.close()
