"""Supervisors of a command: usernsctl-exec and usernsctl-watch."""

from __future__ import annotations

from pathlib import Path

from processes import children_of

import usernsctl as un

WATCHER = Path(un.__file__).with_name("_bin") / "usernsctl-watch"

LOGS = ("/none", "/none", str(Path(__file__).with_name("ended.log")), "/none")

#: Program that prints the number of each signal it receives, until SIGUSR1.
TELLER = """
import signal
wanted = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
while (number := signal.sigwait(wanted)) != signal.SIGUSR1:
    print(int(number), flush=True)
"""

#: Names of the kinds of supervisors.
KINDS = ("fork", "pid", "init", "watch")


def words(kind: str, prelude: Path) -> list[str]:
    """Return the argv of a supervisor of kind `kind`, to which a command can be appended.

    :param prelude: path of usernsctl-exec.
    """
    return {
        "fork": [str(prelude), "-rf", "--"],
        "pid": [str(prelude), "-rp", "--"],
        "init": [str(prelude), "-r", "--init", "--"],
        # usernsctl-watch runs env(1) in place of runsc. Because ended.log says that the command has
        # exited, usernsctl-watch takes any exit status of env(1) for the command's.
        "watch": [str(WATCHER), "/usr/bin/env", *LOGS, "--", "--", "--", "env"],
    }[kind]


def payload_of(supervisor: int) -> int:
    """Return the pid of the command, which is the last descendant of `supervisor`."""
    pid = supervisor
    while children := children_of(pid):
        (pid,) = children
    assert pid != supervisor
    return pid
