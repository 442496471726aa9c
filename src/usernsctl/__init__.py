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
from usernsctl.namespace import enter
from usernsctl.plan import Plan, plan
from usernsctl.process import (
    DEVNULL,
    PIPE,
    STDOUT,
    CalledProcessError,
    CompletedProcess,
    Popen,
    TimeoutExpired,
    check_output,
    exec,
    run,
)

__all__ = [
    "DEVNULL",
    "PIPE",
    "STDOUT",
    "BundleError",
    "CalledProcessError",
    "CommandError",
    "CommandNotExecutableError",
    "CommandNotFoundError",
    "CompletedProcess",
    "Extent",
    "HardeningError",
    "IdMap",
    "MapError",
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
]
