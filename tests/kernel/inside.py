"""Programs that tests run in a namespace, and functions that read the programs' output."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import IO

# Program that prints "ready PID", waits for a signal, and exits with status 100 plus the signal's
# number.
WAITER = [
    sys.executable,
    "-c",
    "import os, signal\n"
    "wanted = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH}\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, wanted)\n"
    "print('ready', os.getpid(), flush=True)\n"
    "os._exit(100 + signal.sigwait(wanted))\n",
]

# Shell script that prints whether its orphaned grandchild was reaped.
ORPHAN = """
orphan=$(sh -c 'sleep 0.1 >/dev/null & echo $!')
tries=0
while [ -e /proc/$orphan ] && [ $tries -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -e /proc/$orphan ] && echo left || echo gone
"""

# Timeout in seconds of each wait in a test.
PATIENCE = 20


def read_ready(output: IO[str]) -> int:
    """Wait until WAITER is ready; return its pid in its own PID namespace."""
    word, pid = output.readline().split()
    assert word == "ready"
    return int(pid)


def wait_for_end(output: IO[str]) -> str:
    """Read until all writers have closed the pipe; return the rest of the output."""
    rest = b""
    while select.select([output], [], [], PATIENCE)[0]:
        chunk = os.read(output.fileno(), 4096)
        if not chunk:
            return rest.decode()
        rest += chunk
    raise AssertionError("somebody still holds the pipe open")


def namespace(name: str, pid: int | str = "self") -> str:
    """Return the type and inode of a process's namespace, such as ``"uts:[4026531838]"``."""
    return str(Path(f"/proc/{pid}/ns/{name}").readlink())
