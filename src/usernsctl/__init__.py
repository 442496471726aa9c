"""User namespaces, made and mapped without privilege, for gVisor and for everyone else."""

from usernsctl.errors import (
    BundleError,
    CommandError,
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
    check_output,
    exec,
    run,
    spawn,
)

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "BundleError",
    "CalledProcessError",
    "Child",
    "CommandError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "CompletedProcess",
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
    "TimeoutExpired",
    "UsernsError",
    "check_output",
    "enter",
    "exec",
    "plan",
    "run",
    "spawn",
]
