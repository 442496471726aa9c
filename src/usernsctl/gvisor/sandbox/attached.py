"""A sandbox that ends with the process that started it."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import time
import weakref
from collections.abc import Iterator, Mapping
from io import FileIO
from typing import TYPE_CHECKING, Any

from usernsctl._lean import LateModule
from usernsctl._system.deadlines import deadline_after, seconds_left
from usernsctl._system.descriptors import above_stdio, open_owned, pipe, wait_readable
from usernsctl.commands.popen import Popen, TimeoutExpired, start_within
from usernsctl.errors import NamespaceError
from usernsctl.gvisor.agent.start import ProcessDefaults
from usernsctl.gvisor.runsc.command import PRIVATE_UMASK
from usernsctl.gvisor.runsc.container import SandboxEnded
from usernsctl.gvisor.sandbox.directory import PopenStreams, SandboxDirectory
from usernsctl.gvisor.sandbox.host_namespace import HostNamespace, RunscNamespace
from usernsctl.namespaces.namespace import Namespace

if TYPE_CHECKING:
    from usernsctl.commands import aio
else:
    aio = LateModule("usernsctl.commands.aio")

# How long the end of process 1 is waited for, once it was killed; whoever else has something to
# collect, such as an event loop, can do so then.
_END_SECONDS = 5
_LOOK_SECONDS = 0.01


class AttachedSandbox:
    """Process 1 of a PID namespace, which ends as the sandbox does, and the sandbox with it.

    :ivar popen: that process, seen from outside.
    :ivar network: the sandbox's, one of :data:`usernsctl.gvisor.runsc.command.NETWORKS`.
    """

    popen: Popen[Any]

    def __init__(
        self,
        host: HostNamespace,
        files: SandboxDirectory,
        how: Mapping[str, Any],
        timeout: float | None = None,
    ) -> None:
        """Start it, and return when the sandbox runs.

        :param how: streams, and other arguments of a Popen.
        :param timeout: how long that may take, in seconds.
        :raises TimeoutExpired: it took longer.
        :raises RunscError: runsc failed.
        :raises NamespaceError: the kernel refused.
        """
        state = f"{files.inside}/state"
        self._id = files.id
        self._runsc = [host.runsc, f"--root={state}"]
        self._files = files
        self.network: str = host.request.network
        self._environ = host.environ
        self._restrictions = host.restrictions
        self._streams = PopenStreams()
        self._inside: Namespace | None = None
        self._commands: weakref.WeakSet[Popen[Any]] = weakref.WeakSet()
        deadline = deadline_after(timeout)
        place = RunscNamespace(host.namespace, host.restrictions, mount_proc=True)
        with contextlib.ExitStack() as opened:
            creator = opened.enter_context(open_owned(os.pidfd_open, os.getpid()))
            ready, theirs = map(opened.enter_context, pipe(os.O_NONBLOCK))
            try:
                with contextlib.ExitStack() as given:
                    fds = [above_stdio(file.fileno(), given) for file in (creator, theirs)]
                    init = [host.prepared.program("usernsctl-init"), *map(str, fds), files.pid_file]
                    self.popen = start_within(
                        timeout,
                        [*init, *files.command(state)],
                        namespace=place,
                        mount=True,
                        pid=True,
                        pass_fds=fds,
                        env=host.environ,
                        cwd="/",
                        umask=PRIVATE_UMASK,
                        **how,
                    )
                theirs.close()
                self._wait_until_ready(ready, files, timeout, deadline)
                self._inside = self._open_inside()
            except BaseException:
                if hasattr(self, "popen"):
                    self.close()
                raise

    def _wait_until_ready(
        self, ready: FileIO, files: SandboxDirectory, timeout: float | None, deadline: float | None
    ) -> None:
        """Wait for the byte that process 1 writes, or for its end."""
        if not wait_readable(ready.fileno(), self.popen.pidfd, timeout=seconds_left(deadline)):
            assert timeout is not None
            raise TimeoutExpired(self.popen.args, timeout)
        if ready.read(1):
            return
        status = self.popen.wait()
        raise files.failure(status)

    def _open_inside(self) -> Namespace | None:
        """What commands of runsc's join; ``None`` where the command has ended already."""
        try:
            return Namespace.from_pid(self.popen.pid)
        except NamespaceError as error:
            if error.cause != "target-gone":
                raise
            # It gives its namespaces up some time before it can be waited for.
            self.popen.wait()
            return None

    @functools.cached_property
    def inherited(self) -> ProcessDefaults:
        """What all commands of the sandbox have in common."""
        return self._files.inherited

    @property
    def status(self) -> int | None:
        """The exit status, 128+N after signal N; ``None``: none was seen yet."""
        status = self.popen.returncode
        return 128 - status if status is not None and status < 0 else status

    def has_ended(self) -> bool:
        """Return whether the sandbox has ended."""
        return self.popen.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """Whether it has ended, or does so within this time."""
        with contextlib.suppress(TimeoutExpired):
            self.popen.wait(seconds)
        return self.has_ended()

    def poll(self) -> int | None:
        """Look whether it has ended: see :meth:`usernsctl.Sandbox.poll`."""
        self.popen.poll()
        return self.status

    def wait(self, timeout: float | None) -> int:
        """Wait for its end, for `timeout` seconds: see :meth:`usernsctl.Sandbox.wait`."""
        self.popen.wait(timeout)
        status = self.status
        assert status is not None
        return status

    def communicate(self, input: Any, timeout: float | None) -> tuple[Any, Any]:
        """Write, read and wait: see :meth:`usernsctl.Sandbox.communicate`."""
        return self._streams.communicate(self.popen, input, timeout)

    async def wait_async(self) -> int:
        """Wait for its end from asyncio."""
        if not self.has_ended():
            await aio.wait_for_end(self.popen.pidfd)
        return self.wait(None)

    def kill(self) -> None:
        """End all that is in the sandbox, at once."""
        self.popen.kill()

    @contextlib.contextmanager
    def runsc(self, *words: str) -> Iterator[tuple[list[str], dict[str, Any]]]:
        """A command of runsc about the sandbox, and what a Popen needs for it, for a block.

        :raises SandboxEnded: it has ended.
        """
        if self._inside is None or self.has_ended():
            raise SandboxEnded.of(self._id)
        place = RunscNamespace(self._inside, self._restrictions)
        place.commands = self._commands
        yield (
            [*self._runsc, *words],
            {
                "namespace": place,
                "env": self._environ,
                "cwd": "/",
                "pass_fds": [],
            },
        )

    def close(self) -> None:
        """End the sandbox, and close all that is ours."""
        self.popen.kill()
        self._wait_for_end()
        self.let_go()

    def _wait_for_end(self) -> None:
        """Wait for the end of process 1, which is the last one of its namespace that is collected.

        The others that we have started there are ours to collect. An event loop that waits for one
        of them stands still until this returns.
        """
        deadline = time.monotonic() + _END_SECONDS
        while time.monotonic() < deadline:
            for command in list(self._commands):
                command.poll()
            # And of those that nobody has any more, as where a signal handler has raised an
            # exception at their start, it is subprocess that knows.
            subprocess._cleanup()  # type: ignore[attr-defined]
            with contextlib.suppress(TimeoutExpired):
                self.popen.wait(_LOOK_SECONDS)
                return

    def let_go(self) -> None:
        """Close our descriptors, and leave the sandbox alone."""
        self._streams.close(self.popen)
        if self._inside is not None:
            self._inside.close()
