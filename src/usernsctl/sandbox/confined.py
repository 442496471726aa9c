"""Where runsc runs for a sandbox: in namespaces, with no more privileges than it needs."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from usernsctl import hardening
from usernsctl.errors import CommandError
from usernsctl.target import Joinable, Target

if TYPE_CHECKING:
    from usernsctl.process import Popen


class Confined:
    """Namespaces whose commands have given up what runsc has no use for.

    :param restrictions: what they give up.
    :param mount_proc: whether they get a /proc that fits their PID namespace: runsc reads it.
    :ivar commands: where those who start commands there put them, to be collected in their place.
    """

    def __init__(
        self,
        namespace: Joinable,
        restrictions: hardening.Hardening,
        *,
        mount_proc: bool = False,
    ) -> None:
        self._namespace = namespace
        self._restrictions = restrictions
        self._mount_proc = mount_proc
        self.commands: weakref.WeakSet[Popen[Any]] = weakref.WeakSet()

    def target(self) -> Target:
        target = self._namespace.target()
        hardening.prepare(target.setup, self._restrictions)
        if self._mount_proc:
            target.setup.mount_proc = "/proc"
        return target


class SandboxEnded(CommandError):
    """There is no sandbox any more that a command could be about."""

    @classmethod
    def of(cls, id: str) -> SandboxEnded:
        return cls(f"the sandbox {id} has ended", step="sandbox")
