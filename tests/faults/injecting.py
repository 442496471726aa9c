"""Running a program with system calls that fail, by strace(1), which the tests have to require."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SECONDS = 60


def run_with(
    *faults: str,
    command: list[str | Path],
    path: str | None = None,
    pass_fds: tuple[int, ...] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end.

    :param faults: in the form of strace's ``-e inject=``, such as ``"mount:error=EPERM:when=2"``.
    :param path: if given, only calls about this path, as the program names it, are concerned.
    """
    names = ",".join(fault.split(":")[0] for fault in faults)
    options = ["-f", "-qq", "-o", os.devnull, "-e", f"trace={names}"]
    for fault in faults:
        options += ["-e", f"inject={fault}"]
    if path is not None:
        options += ["-P", path]
    done = subprocess.run(
        ["strace", *options, "--", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        pass_fds=pass_fds,
    )
    # strace tells how it understood the path.
    told = [line for line in done.stderr.splitlines() if not line.startswith("strace: Requested")]
    done.stderr = "\n".join(told)
    return done
