"""Where sandboxes run, and how they are started there."""

from __future__ import annotations

import asyncio
from typing import Unpack

from usernsctl.commands.arguments import Args
from usernsctl.gvisor.arguments import StartOptions
from usernsctl.gvisor.begun import Begun
from usernsctl.gvisor.prepared import HostBase
from usernsctl.gvisor.sandbox import Sandbox


class SandboxHost(HostBase):
    """A kept namespace that sandboxes are started in, from any thread or from asyncio.

    To make one takes a few tenths of a second: the id map is written, and a root filesystem is
    built. Each sandbox then costs what runsc costs. All files lie in mounts inside, and are gone
    when the host is closed and its last sandbox has ended. Nothing runs in it but its sandboxes.

    It is a context manager, also an asynchronous one, that closes it at its end.
    """

    def start(self, args: Args = (), **options: Unpack[StartOptions]) -> Sandbox:
        """Start a command in a sandbox of its own, and return when it runs.

        :class:`Sandbox` has the arguments. An event loop stands still for it, some tenths of a
        second: :meth:`start_async` is for those.

        :raises ValueError: the host is closed.
        :raises TimeoutExpired: it took more than `timeout` seconds.
        :raises UsernsError: as :class:`Sandbox` does.
        """
        return Sandbox(args, host=self, **options).__enter__()

    async def start_async(self, args: Args = (), **options: Unpack[StartOptions]) -> Sandbox:
        """The same from asyncio; if this is cancelled, the sandbox is closed."""
        loop = asyncio.get_running_loop()
        starting = Begun(
            lambda: self.start(args, **options),
            # As many at once as the loop has threads for: each start takes a processor.
            run=lambda job: loop.run_in_executor(None, job),
        )
        try:
            return await starting.wait()
        except asyncio.CancelledError:
            starting.undo(Sandbox.close)
            raise
