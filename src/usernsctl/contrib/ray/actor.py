"""Ray actor that runs commands in sandboxes on its node."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from subprocess import SubprocessError
from typing import Any

import ray

from usernsctl.contrib.ray.tasks import check_input
from usernsctl.contrib.ray.template_files import TemplateFiles
from usernsctl.errors import UsernsError
from usernsctl.gvisor.host import SandboxHost
from usernsctl.gvisor.pool.keeper import PoolStats
from usernsctl.gvisor.pool.pool import SandboxPool
from usernsctl.gvisor.sandbox.host_namespace import HostOptions

# Exceptions about a command or its arguments. Methods return them instead of raising them, because
# Ray would wrap a raised exception, and add the actor's traceback to its text.
_EXPECTED = (UsernsError, SubprocessError, TypeError, ValueError)


class SandboxActor:
    """An actor with a :class:`usernsctl.SandboxHost` and a pool of sandboxes.

    :class:`RayPool` creates these actors. To create an actor without a pool, call
    ``ray.remote(SandboxActor).options(num_cpus=0, resources={"sandboxes": 4}).remote(4)``, and then
    the method ``start`` of the actor. Methods return exceptions of usernsctl instead of raising
    them.

    :param int sandboxes: the number of sandboxes.
    :param host: the arguments of the host; see :class:`RayPool`.
    :param template: the template of the sandboxes, or None.
    :param int max_uses: the number of commands that a sandbox runs; see
        :class:`usernsctl.SandboxPool`.
    :param float start_timeout: the timeout for starting one sandbox, in seconds.
    """

    def __init__(
        self,
        sandboxes: int,
        host: HostOptions | None = None,
        template: TemplateFiles | None = None,
        max_uses: int = 1,
        start_timeout: float = 30,
    ) -> None:
        self._sandboxes = sandboxes
        self._host_options: HostOptions = host or {}
        self._template = template
        self._max_uses = max_uses
        self._start_timeout = start_timeout
        self._host: SandboxHost | None = None
        self._pool: SandboxPool | None = None

    async def start(self) -> str | Exception:
        """Create the host, load the template, and wait until one sandbox has started.

        :returns: the id of the node, or, if no sandbox could be started, the exception.
        """
        try:
            self._pool = await asyncio.to_thread(self._make_pool)
            async with self._pool.acquire_async():
                pass
        except _EXPECTED as error:
            return error
        node: str = ray.get_runtime_context().get_node_id()
        return node

    def _make_pool(self) -> SandboxPool:
        self._host = SandboxHost(**self._host_options)
        template, self._template = self._template, None
        loaded = None if template is None else template.load(self._host)
        return self._host.pool(
            self._sandboxes,
            limit=self._sandboxes,
            max_uses=self._max_uses,
            template=loaded,
            start_timeout=self._start_timeout,
        )

    async def run(self, argv: tuple[str, ...], input: Any, options: Mapping[str, Any]) -> Any:
        """Run a command in the next free sandbox; kill the command if Ray cancels this call.

        :param argv: the command and its arguments.
        :param input: the standard input, or None.
        :param options: the options of :meth:`usernsctl.Sandbox.run_async`.
        :returns: the :class:`usernsctl.Result`, or an exception of usernsctl.
        """
        if self._pool is None:
            return ValueError("the actor was not started: call its method start first")
        try:
            # Check the input here: if the caller of submit() gave a reference, only Ray could get
            # the object, and has done so before this call.
            check_input(input, options)
            async with self._pool.acquire_async() as sandbox:
                given = {"capture_output": True, "input": input, **options}
                return await sandbox.run_async(argv, **given)
        except _EXPECTED as error:
            return error

    async def stats(self) -> PoolStats | None:
        """Return the counters of the pool, or None before :meth:`start` has created the pool."""
        return None if self._pool is None else self._pool.stats()

    async def close(self) -> None:
        """Kill all sandboxes, and wait until they have ended."""
        for part in (self._pool, self._host):
            if part is not None:
                await part.close_async()
