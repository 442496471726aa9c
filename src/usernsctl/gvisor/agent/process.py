"""Commands in a sandbox, with the interface of :class:`asyncio.subprocess.Process`."""

from __future__ import annotations

import asyncio
from typing import Any

from usernsctl.commands import aio
from usernsctl.gvisor.agent.popen import KILL_SECONDS, SandboxPopen
from usernsctl.gvisor.result import Usage


class SandboxProcess(aio.Process):
    """A command in a sandbox, as :meth:`usernsctl.Sandbox.create_subprocess_exec` returns it.

    The object is an :class:`asyncio.subprocess.Process` that also has the properties and methods
    below, as :class:`usernsctl.SandboxPopen` does. A signal to a command that has exited has no
    effect.
    """

    @property
    def _popen(self) -> SandboxPopen[Any]:
        transport: asyncio.SubprocessTransport = self._transport  # type: ignore[attr-defined]
        popen: SandboxPopen[Any] = transport.get_extra_info("subprocess")
        return popen

    @property
    def pid_inside(self) -> int:
        """The pid of the command in the sandbox."""
        return self._popen.pid_inside

    @property
    def rusage(self) -> Usage | None:
        """The resource usage of the command; ``None`` until the command has been waited for."""
        return self._popen.rusage

    def send_signal_to_group(self, sig: int) -> None:
        """Send a signal to the process group of the command, as :func:`os.killpg` does.

        :param sig: the number of the signal, such as :data:`signal.SIGTERM`.
        :raises OSError: no signal has that number (EINVAL).
        :raises RunscError: the agent does not answer, or the sandbox has exceeded a limit.
        """
        self._popen.send_signal_to_group(sig)

    def kill_tree(self, timeout: float = KILL_SECONDS) -> asyncio.Future[bool]:
        """Kill the command and all its descendants, in any session or process group (SIGKILL).

        The processes are killed even if the caller does not await the result.

        :param timeout: as for :meth:`usernsctl.SandboxPopen.kill_tree`.
        :returns: a future that is done when the processes have exited. The future's result is
            whether the sandbox still runs.
        """
        loop = asyncio.get_running_loop()
        # Do nothing after the command's exit, so that background processes survive. The event loop
        # keeps the command's socket open after the exit, so SandboxPopen.kill_tree() would kill the
        # background processes.
        if self.returncode is None:
            return loop.run_in_executor(None, self._popen.kill_tree, timeout)
        done = loop.create_future()
        done.set_result(True)
        return done

    def resize_terminal(self, columns: int, rows: int) -> None:
        """Change the size of the command's terminal.

        The terminal's foreground process group receives SIGWINCH.

        :param int columns: the number of columns.
        :param int rows: the number of rows.
        :raises ValueError: the command has no terminal, or a number is not from 1 to 65535.
        :raises RunscError: the agent does not answer, or the sandbox has exceeded a limit.
        """
        self._popen.resize_terminal(columns, rows)
