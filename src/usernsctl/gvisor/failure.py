"""Why runsc failed: started in place of it, once it has.

``python -m usernsctl.gvisor.failure ERRORS CRASH DEBUG BUNDLE STATUS CAUSE`` runs inside the
namespaces of the run, where runsc's logs (:class:`usernsctl.gvisor.runsc.Logs`) and its bundle
still are. STATUS is what runsc ended with. CAUSE is that of which a limit was hit meanwhile, or
empty.
"""

from __future__ import annotations

import io
import sys

from usernsctl.errors import RunscError
from usernsctl.explain.catalogue import get
from usernsctl.explain.messages import explain
from usernsctl.explain.printing import print_error
from usernsctl.gvisor import logs, runsc

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
_NO_DIRECTORY = ("creating working directory", "create process working directory")


def main(written: runsc.Logs, bundle: str, status: int, limit: str) -> int:
    """Tell why runsc failed, and return the exit status of the run.

    If it did not fail, the command has ended with `status`, and nothing is said.
    """
    if logs.has_ended(written):
        return status
    told = logs.reason(written)
    if told is not None:
        with open(f"{bundle}/config.json", encoding="utf-8") as file:
            error = describe(told, limit, file.read())
    elif status in (runsc.CRASHED, runsc.FAILED):
        error = _without_log(status, limit)
    else:
        return status
    print_error(error)
    return error.exit_status


def _without_log(status: int, limit: str) -> RunscError:
    """The error that runsc ended so, and its log came to no end."""
    if status == runsc.FAILED:
        return _known(_REFUSED, limit or "runsc-refused-call")
    return _known(_CRASH, limit) if limit else crash()


def describe(told: str, limit: str = "", config: str = "") -> RunscError:
    """The error that a message of runsc's is: with a cause, if the message can have but one.

    :param limit: the cause that it has, if the message can have several; or empty.
    :param config: the config.json, whose words are not runsc's even where runsc repeats them.
    """
    own = logs.own_words(told, config)
    candidates = explain(io.BytesIO(own.encode())).candidates
    causes = [one.cause for one in candidates if one.cause.id not in _ruled_out()]
    said = logs.said(told)
    if any(words in own for words in _NO_DIRECTORY):
        remedy = "choose a working directory that there is in the sandbox"
        return RunscError(said, step="runsc", remedy=remedy)
    if len(causes) != 1 and limit:
        return _known(said, limit)
    if len(causes) == 1:
        remedy = causes[0].remedies["host"]
    elif causes:
        remedy = f"usernsctl doctor tells which it is: {', '.join(cause.id for cause in causes)}"
    else:
        remedy = "usernsctl doctor"
    cause = causes[0].id if len(causes) == 1 else None
    return RunscError(said, step="runsc", cause=cause, remedy=remedy)


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
    _errors, _crash, _debug, _bundle, _status, _cause = sys.argv[1:]
    _logs = runsc.Logs(errors=_errors, crash=_crash, debug=_debug)
    sys.exit(main(_logs, _bundle, int(_status), _cause))
