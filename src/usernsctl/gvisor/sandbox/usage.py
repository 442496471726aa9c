"""The mixin class with a sandbox's methods that measure its resource usage."""

from __future__ import annotations

from usernsctl import _core
from usernsctl._lean import TYPE_CHECKING, LateModule
from usernsctl.errors import NamespaceError
from usernsctl.gvisor.result import SandboxUsage
from usernsctl.gvisor.runsc.container import ENDING_SECONDS
from usernsctl.gvisor.sandbox.attached import AttachedSandbox
from usernsctl.gvisor.sandbox.detached import DetachedSandbox

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = LateModule("asyncio")


class UsageMixin:
    """The methods of a sandbox that measure the resource usage of its processes."""

    id: str

    def _get(self) -> AttachedSandbox | DetachedSandbox:
        raise NotImplementedError

    def usage(self) -> SandboxUsage:
        """Return the memory, the processes and the CPU time that the sandbox uses now.

        The call takes about a millisecond, and does not disturb the sandbox: it reads a few files
        in /proc for each of the sandbox's processes. The sandbox need not have limits. If a cgroup
        enforces the memory limit, the kernel counts slightly more than this call: the kernel adds
        its own buffers, and the files that count towards `disk`.

        :raises SandboxEndedError: the sandbox has ended.
        :raises NamespaceError: the processes of the sandbox can't be read.
        """
        life = self._get()
        try:
            found = SandboxUsage(*_core.read_usage(life.watcher))
        except OSError as error:
            if not life.ends_within(ENDING_SECONDS):
                what = f"the processes of the sandbox {self.id}"
                raise NamespaceError.from_os_error(error, what, step="sandbox") from error
            raise life.end_error() from None
        # Discard the result if the sandbox has ended: the kernel may have reused the pids of the
        # sandbox's processes before the call read the usage of all processes.
        if life.has_ended():
            raise life.end_error()
        return found

    async def usage_async(self) -> SandboxUsage:
        """Return the resource usage of the sandbox from asyncio: see :meth:`usage`.

        :raises SandboxEndedError: the sandbox has ended.
        :raises NamespaceError: the processes of the sandbox can't be read.
        """
        return await asyncio.to_thread(self.usage)
