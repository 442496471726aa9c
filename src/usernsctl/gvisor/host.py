"""Where sandboxes run, and how they are started there."""

from __future__ import annotations

import asyncio
from typing import Unpack

from usernsctl.commands.arguments import Args
from usernsctl.gvisor.checks import StartOptions
from usernsctl.gvisor.prepared import PreparedNamespace
from usernsctl.gvisor.sandbox import Sandbox


class SandboxHost(PreparedNamespace):
    """A kept namespace that sandboxes are started in, from any thread or from asyncio.

    To make one takes a few tenths of a second: the id map is written, and a root filesystem is
    built. Each sandbox then costs what runsc costs. All files lie in mounts inside, and are gone
    when the host is closed and its last sandbox has ended. Nothing runs in it but its sandboxes.
    """

    def start(self, args: Args = (), **options: Unpack[StartOptions]) -> Sandbox:
        """Start a command in a sandbox of its own: :class:`Sandbox` has the arguments."""
        return Sandbox(args, host=self, **options)

    async def start_async(self, args: Args = (), **options: Unpack[StartOptions]) -> Sandbox:
        """The same from asyncio; if this is cancelled, the sandbox is closed."""
        starting = asyncio.ensure_future(asyncio.to_thread(self.start, args, **options))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_close_result)
            raise


def _close_result(starting: asyncio.Future[Sandbox]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        starting.result().close()
