"""Functions that run commands on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_terminal(
    command: Sequence[str | Path], env: Mapping[str, str], cwd: str | Path = "/"
) -> tuple[int, str]:
    """Run a command on a new terminal; return its exit status and output."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=cwd
    )
    os.close(follower)
    told = b""
    try:
        while part := os.read(leader, 65536):
            told += part
    except OSError:  # EIO: no process has the terminal open
        pass
    finally:
        os.close(leader)
    return process.wait(), told.decode()


class Session:
    """A command that leads a session with a controlling terminal of 24 rows and 80 columns."""

    def __init__(self, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        self.pid, self._leader = pty.fork()
        if self.pid == 0:
            try:
                os.execvpe(command[0], command, {**(os.environ if env is None else env)})
            finally:
                os._exit(127)
        self.resize(24, 80)
        self._output = b""

    def resize(self, rows: int, columns: int) -> None:
        size = struct.pack("4H", rows, columns, 0, 0)
        fcntl.ioctl(self._leader, termios.TIOCSWINSZ, size)

    def resize_until(self, rows: int, columns: int, wanted: str) -> None:
        """Resize the terminal; then read the output until `wanted` has appeared.

        runsc ignores SIGWINCH until its start of the container has returned. On a loaded machine,
        the container's first output comes before that, so SIGWINCH is sent again each second.
        """
        self.resize(rows, columns)
        deadline = time.monotonic() + 60
        while not self._reads(wanted, 1):
            assert time.monotonic() < deadline, f"no {wanted!r} in {self._output!r}"
            os.killpg(os.tcgetpgrp(self._leader), signal.SIGWINCH)
        self.read_until(wanted)

    def type(self, keys: str, *wanted: str) -> None:
        """Type keys; then read the output until each text of `wanted` has appeared, in order."""
        os.write(self._leader, keys.encode())
        for text in wanted:
            self.read_until(text)

    def read_until(self, wanted: str) -> str:
        """Read the output up to `wanted`, for at most a minute; return the text before `wanted`.

        The terminal echoes typed text, which therefore must not contain `wanted`. For example, type
        end''ed if `wanted` is "ended".
        """
        assert self._reads(wanted, 60), f"no {wanted!r} in {self._output!r}"
        before, _, self._output = self._output.partition(wanted.encode())
        return before.decode(errors="replace")

    def wait(self) -> int:
        """Read the rest of the output; wait for the command; return its exit status."""
        while part := self._read():
            self._output += part
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._leader)

    def _reads(self, wanted: str, seconds: float) -> bool:
        """Read the output for at most `seconds`; return whether it contains `wanted`."""
        deadline = time.monotonic() + seconds
        while wanted.encode() not in self._output:
            left = max(0, deadline - time.monotonic())
            if not select.select([self._leader], [], [], left)[0]:
                return False
            part = self._read()
            assert part, f"no {wanted!r} in {self._output!r}, and then the end"
            self._output += part
        return True

    def _read(self) -> bytes:
        try:
            return os.read(self._leader, 65536)
        except OSError:  # EIO: no process has the terminal open
            return b""
