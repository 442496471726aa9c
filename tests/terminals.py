"""What a command writes to a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_terminal(
    command: Sequence[str | Path], env: Mapping[str, str], cwd: str | Path = "/"
) -> tuple[int, str]:
    """The exit status of a command, and what it writes to a terminal that it has to itself."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=cwd
    )
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 65536):
            told += part
    except OSError:  # all that wrote to it have ended
        pass
    finally:
        os.close(leader)
    return process.wait(), told.decode()
