"""Injection of errors into system calls with strace(1).

Tests that use this module must declare that they require strace.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from processes import capture

SECONDS = 60


def run_with(
    *faults: str,
    command: list[str | Path],
    path: str | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command with injected faults.

    :param faults: the faults in the form of strace's ``-e inject=``, such as
        ``"mount:error=EPERM:when=2"``.
    :param path: inject faults only into system calls that have this path as an argument.
    """
    names = ",".join(fault.split(":")[0] for fault in faults)
    options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={names}"]
    for fault in faults:
        options += ["-e", f"inject={fault}"]
    if path is not None:
        options += ["-P", path]
    done = capture(["strace", *options, "--", *command], timeout=SECONDS, pass_fds=pass_fds)
    # Remove strace's own line "strace: Requested path ...", which says how strace resolved `path`.
    output = [line for line in done.stderr.splitlines() if not line.startswith("strace: Requested")]
    done.stderr = "\n".join(output)
    return done
