"""User namespaces, made and mapped without privilege, for gVisor and for everyone else."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from usernsctl.commands.popen import (
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
from usernsctl.maps import Extent, IdMap, Plan, plan
from usernsctl.namespaces.namespace import Namespace, enter

if TYPE_CHECKING:
    from usernsctl import gvisor
    from usernsctl.commands.aio import create_subprocess_exec
    from usernsctl.doctor import diagnose
    from usernsctl.gvisor.arguments import HostOptions, StartOptions
    from usernsctl.gvisor.host import SandboxHost
    from usernsctl.gvisor.oci import Rlimit
    from usernsctl.gvisor.registry import DetachedRecord
    from usernsctl.gvisor.request import Bind
    from usernsctl.gvisor.sandbox import Sandbox


__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "Bind",
    "BundleError",
    "CalledProcessError",
    "Child",
    "CommandError",
    "CommandNotADirectoryError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "CompletedProcess",
    "DetachedRecord",
    "Extent",
    "HardeningError",
    "HostOptions",
    "IdMap",
    "MapError",
    "Namespace",
    "NamespaceError",
    "Plan",
    "PlanError",
    "Popen",
    "Rlimit",
    "RunscError",
    "Sandbox",
    "SandboxHost",
    "StartOptions",
    "TimeoutExpired",
    "UsernsError",
    "call",
    "check_call",
    "check_output",
    "create_subprocess_exec",
    "diagnose",
    "enter",
    "exec",
    "gvisor",
    "plan",
    "run",
    "spawn",
]

# What takes longer to import than all the rest, and many programs never ask for.
_IMPORTED_WHEN_USED = {
    "Bind": "usernsctl.gvisor.request",
    "DetachedRecord": "usernsctl.gvisor.registry",
    "HostOptions": "usernsctl.gvisor.arguments",
    "Rlimit": "usernsctl.gvisor.oci",
    "Sandbox": "usernsctl.gvisor.sandbox",
    "SandboxHost": "usernsctl.gvisor.host",
    "StartOptions": "usernsctl.gvisor.arguments",
    "create_subprocess_exec": "usernsctl.commands.aio",
    "diagnose": "usernsctl.doctor",
}


def __getattr__(name: str) -> Any:
    if name == "gvisor":
        return import_module("usernsctl.gvisor")
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_IMPORTED_WHEN_USED[name]), name)
