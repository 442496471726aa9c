"""Output of a command to a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_terminal(
    command: Sequence[str | Path], env: Mapping[str, str], cwd: str | Path = "/"
) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit status and output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=cwd
    )
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 65536):
            told += part
    except OSError:  # all writers have closed the terminal
        pass
    finally:
        os.close(leader)
    return process.wait(), told.decode()
