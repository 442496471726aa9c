"""User namespaces, made and mapped without privilege, for gVisor and for everyone else."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from usernsctl.errors import (
    BundleError,
    CommandError,
    CommandNotADirectoryError,
    CommandNotExecutableError,
    CommandNotFoundError,
    HardeningError,
    MapError,
    NamespaceError,
    PlanError,
    RunscError,
    UsernsError,
)
from usernsctl.idmap import Extent, IdMap
from usernsctl.namespace import Namespace, enter
from usernsctl.plan import Plan, plan
from usernsctl.process import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    Child,
    CompletedProcess,
    Popen,
    TimeoutExpired,
    call,
    check_call,
    check_output,
    exec,
    run,
    spawn,
)

if TYPE_CHECKING:
    from usernsctl.aio import create_subprocess_exec
    from usernsctl.doctor import diagnose
    from usernsctl.sandbox.box import Sandbox
    from usernsctl.sandbox.host import SandboxHost
    from usernsctl.sandbox.registry import DetachedSandbox

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "BundleError",
    "CalledProcessError",
    "Child",
    "CommandError",
    "CommandNotADirectoryError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "CompletedProcess",
    "DetachedSandbox",
    "Extent",
    "HardeningError",
    "IdMap",
    "MapError",
    "Namespace",
    "NamespaceError",
    "Plan",
    "PlanError",
    "Popen",
    "RunscError",
    "Sandbox",
    "SandboxHost",
    "TimeoutExpired",
    "UsernsError",
    "call",
    "check_call",
    "check_output",
    "create_subprocess_exec",
    "diagnose",
    "enter",
    "exec",
    "plan",
    "run",
    "spawn",
]

# What takes longer to import than all the rest, and many programs never ask for.
_IMPORTED_WHEN_USED = {
    "DetachedSandbox": "usernsctl.sandbox.registry",
    "Sandbox": "usernsctl.sandbox.box",
    "SandboxHost": "usernsctl.sandbox.host",
    "create_subprocess_exec": "usernsctl.aio",
    "diagnose": "usernsctl.doctor",
}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_IMPORTED_WHEN_USED[name]), name)
