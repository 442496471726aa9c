"""Why runsc failed: started in place of it, once it has.

``python -m usernsctl.sandbox.failure LOG`` runs inside the namespaces of the run, where LOG, a
directory of runsc's own logs, still is.
"""

from __future__ import annotations

import io
import sys

from usernsctl import runsc
from usernsctl.cli import print_error
from usernsctl.doctor.debuglog import root_failure
from usernsctl.doctor.explain import explain
from usernsctl.errors import RunscError

# Only on kernels with Yama (Documentation/admin-guide/LSM/Yama.rst).
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_YAMA_ADMIN_ONLY = 2


def main(log: str) -> int:
    """Tell what runsc's logs have, and return the exit status of the run."""
    told = root_failure(log)
    if told is None:
        # Nothing went wrong: the command itself ended with this status.
        return runsc.FAILED
    error = describe(told)
    print_error(error)
    return error.exit_status


def describe(told: str) -> RunscError:
    """The error that a message of runsc's is: with a cause, if the message can have but one."""
    candidates = explain(io.BytesIO(told.encode())).candidates
    causes = [one.cause for one in candidates if one.cause.id not in _ruled_out()]
    if len(causes) == 1:
        remedy = causes[0].remedies["host"]
    elif causes:
        remedy = f"usernsctl doctor tells which it is: {', '.join(cause.id for cause in causes)}"
    else:
        remedy = "usernsctl doctor"
    cause = causes[0].id if len(causes) == 1 else None
    return RunscError(told, step="runsc", cause=cause, remedy=remedy)


def _ruled_out() -> set[str]:
    """Causes that can't be it, since this process runs as it does."""
    # The kernel makes no user namespace for a process in a chroot, and we are in one of ours.
    ruled_out = {"in-chroot"}
    try:
        with open(_YAMA) as file:
            scope = int(file.read())
    except (OSError, ValueError):
        scope = 0
    if scope < _YAMA_ADMIN_ONLY:
        ruled_out.add("yama-ptrace-scope")
    return ruled_out


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
