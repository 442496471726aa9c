"""The C core, as Python functions.

The one package that touches cffi's untyped objects: what comes out is Python's own types, and every
failure is an exception. The GIL is released while C runs.
"""

from usernsctl._core.explaining import explain_runsc, explain_silent_runsc
from usernsctl._core.failures import cause, command_error
from usernsctl._core.launching import NativeLaunch, failure
from usernsctl._core.looking import (
    append_at_end,
    denies_write_execute,
    is_trusted,
    landlock_version,
    machine_part,
    others_may_write,
    refuse_to_show,
)
from usernsctl._core.planning import (
    GRANT_COUNT,
    NativePlan,
    free_ids,
    parse_extent,
    plan,
    setup_to_join,
)
from usernsctl._core.records import (
    ALL_NAMESPACES,
    NAMESPACE_FILES,
    NAMESPACES,
    START_SECONDS,
    Cause,
    Command,
    IdRequest,
    PlanDescription,
    Setup,
    Spawn,
)
from usernsctl._core.running import (
    NamespaceFds,
    apply_setup,
    be_init,
    check_single_thread,
    close_descriptors,
    create_namespaces,
    end_child,
    enter,
    exec_command,
    join,
    lost_returncode,
    mount,
    reraise,
    spawn,
    stand_in,
    version,
)

__all__ = [
    "ALL_NAMESPACES",
    "GRANT_COUNT",
    "NAMESPACES",
    "NAMESPACE_FILES",
    "START_SECONDS",
    "Cause",
    "Command",
    "IdRequest",
    "NamespaceFds",
    "NativeLaunch",
    "NativePlan",
    "PlanDescription",
    "Setup",
    "Spawn",
    "append_at_end",
    "apply_setup",
    "be_init",
    "cause",
    "check_single_thread",
    "close_descriptors",
    "command_error",
    "create_namespaces",
    "denies_write_execute",
    "end_child",
    "enter",
    "exec_command",
    "explain_runsc",
    "explain_silent_runsc",
    "failure",
    "free_ids",
    "is_trusted",
    "join",
    "landlock_version",
    "lost_returncode",
    "machine_part",
    "mount",
    "others_may_write",
    "parse_extent",
    "plan",
    "refuse_to_show",
    "reraise",
    "setup_to_join",
    "spawn",
    "stand_in",
    "version",
]
