"""Why runsc failed: started in place of it, once it has.

``python -m usernsctl.sandbox.failure LOG STATUS CAUSE`` runs inside the namespaces of the run,
where LOG, a directory of runsc's own logs, still is. STATUS is what runsc ended with. CAUSE is that
of which a limit was hit meanwhile, or empty.
"""

from __future__ import annotations

import io
import os
import sys

from usernsctl import runsc
from usernsctl.cli import print_error
from usernsctl.doctor.catalogue import get
from usernsctl.doctor.debuglog import has_ended, root_failure
from usernsctl.doctor.explain import explain
from usernsctl.errors import RunscError

# Only on kernels with Yama (Documentation/admin-guide/LSM/Yama.rst).
_YAMA = "/proc/sys/kernel/yama/ptrace_scope"
_YAMA_ADMIN_ONLY = 2

_CRASH = "runsc crashed; its own report is on standard error"
_REFUSED = "runsc refused to start; its own words are on standard error"
_AFTER_CRASH = (
    "usernsctl explain takes what it said. Too few threads are the usual cause: see ulimit -u, and "
    "docker run --pids-limit"
)

# What runsc says where the directory that the command starts in is missing, and can't be made.
_NO_DIRECTORY = "creating working directory"


def main(log: str, status: int, limit: str) -> int:
    """Tell what runsc's logs have, and return the exit status of the run."""
    told = root_failure(log)
    if told is not None:
        error = describe(told, limit)
    elif status in (runsc.CRASHED, runsc.FAILED) and not has_ended(log) and _has_room(log):
        error = _without_log(status, limit)
    else:
        # Nothing went wrong: the command itself ended with this status.
        return status
    print_error(error)
    return error.exit_status


def _without_log(status: int, limit: str) -> RunscError:
    """The error that runsc ended so, and its log came to no end."""
    if status == runsc.FAILED:
        return _known(_REFUSED, limit or "runsc-refused-call")
    return _known(_CRASH, limit) if limit else crash()


def _has_room(log: str) -> bool:
    """Whether runsc could write all that it wanted to."""
    return os.statvfs(log).f_bavail > 0


def describe(told: str, limit: str = "") -> RunscError:
    """The error that a message of runsc's is: with a cause, if the message can have but one.

    :param limit: the cause that it has, if the message can have several; or empty.
    """
    candidates = explain(io.BytesIO(told.encode())).candidates
    causes = [one.cause for one in candidates if one.cause.id not in _ruled_out()]
    if len(causes) != 1 and limit:
        return _known(told, limit)
    if _NO_DIRECTORY in told:
        remedy = "choose a working directory that there is in the sandbox"
    elif len(causes) == 1:
        remedy = causes[0].remedies["host"]
    elif causes:
        remedy = f"usernsctl doctor tells which it is: {', '.join(cause.id for cause in causes)}"
    else:
        remedy = "usernsctl doctor"
    cause = causes[0].id if len(causes) == 1 else None
    return RunscError(told, step="runsc", cause=cause, remedy=remedy)


def crash() -> RunscError:
    """The error that runsc crashed, and left nothing in its logs."""
    return RunscError(_CRASH, step="runsc", remedy=_AFTER_CRASH)


def _known(told: str, cause: str) -> RunscError:
    """The error with a cause that is known."""
    return RunscError(told, step="runsc", cause=cause, remedy=get(cause).remedies["host"])


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
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
