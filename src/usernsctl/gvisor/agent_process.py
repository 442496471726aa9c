"""A command that the agent of a sandbox starts, as asyncio has it."""

from __future__ import annotations

import asyncio
from typing import Any

from usernsctl.commands import aio
from usernsctl.gvisor.agent_popen import KILL_SECONDS, SandboxPopen
from usernsctl.gvisor.agent_wire import Usage


class SandboxProcess(aio.Process):
    """A command in a sandbox: :meth:`usernsctl.Sandbox.create_subprocess_exec` returns it.

    It is an :class:`asyncio.subprocess.Process`, and has besides what
    :class:`usernsctl.SandboxPopen` has. What is sent to a command that has ended does nothing.
    """

    @property
    def _popen(self) -> SandboxPopen[Any]:
        transport: asyncio.SubprocessTransport = self._transport  # type: ignore[attr-defined]
        popen: SandboxPopen[Any] = transport.get_extra_info("subprocess")
        return popen

    @property
    def pid_inside(self) -> int:
        """The number of the process inside."""
        return self._popen.pid_inside

    @property
    def rusage(self) -> Usage | None:
        """What the command has used, as gVisor counts it, once it has ended and was waited for."""
        return self._popen.rusage

    def send_signal_to_group(self, sig: int) -> None:
        """Send a signal to the process group that the command leads, as :func:`os.killpg` does.

        :raises OSError: there is no such signal (EINVAL).
        :raises RunscError: the agent takes no more orders.
        """
        self._popen.send_signal_to_group(sig)

    def kill_tree(self, timeout: float = KILL_SECONDS) -> asyncio.Future[bool]:
        """Kill the command and all that it has started, wherever it has gone (SIGKILL).

        :param timeout: as for :meth:`usernsctl.SandboxPopen.kill_tree`.
        :returns: what can be awaited: the end of all that, and whether the sandbox goes on. It is
            killed also where nobody waits.
        """
        loop = asyncio.get_running_loop()
        # Its connection outlives it here: what it has left in the background is to go on.
        if self.returncode is None:
            return loop.run_in_executor(None, self._popen.kill_tree, timeout)
        done = loop.create_future()
        done.set_result(True)
        return done

    def resize_terminal(self, columns: int, rows: int) -> None:
        """Change the size of the command's terminal, which is told of it by SIGWINCH.

        :raises ValueError: it has no terminal, or none can have that size.
        :raises RunscError: the agent takes no more orders.
        """
        self._popen.resize_terminal(columns, rows)
