"""Children that any thread, and a handler of signals, may wait for and kill at any time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from subprocess import TimeoutExpired
from typing import Any, AnyStr

from usernsctl import _core
from usernsctl._system.descriptors import LetGoError, Shared, wait_readable

# How long to leave a child that has ended to whoever traces it, before the next look.
TRACER_SECONDS = 0.001


class Collected(subprocess.Popen[AnyStr]):
    """A :class:`subprocess.Popen` that learns of its child by a pidfd, and holds no lock meanwhile.

    Whoever makes the child calls :meth:`_hold`.
    """

    #: Refers to the child until it has been waited for, then -1; close-on-exec, ours to close.
    pidfd: int = -1

    _child_created: bool  # subprocess's, private: whether there is a child to collect
    _owner = -1  # the process whose child it is

    def _hold(self, pidfd: int) -> None:
        self._owner = os.getpid()
        self._shared = Shared("the pidfd", [pidfd])
        self.pidfd = pidfd

    # These two are subprocess's, private, and the same from 3.11 to 3.14. Its own hold a lock that
    # a handler of signals that has interrupted them would wait for in vain. They remain for an
    # object that is garbage, whose pidfd is closed though nobody knows the exit status.

    def _internal_poll(self, _deadstate: int | None = None, **_: Any) -> int | None:
        """Look whether the child has ended; collect it then."""
        if self.returncode is None:
            try:
                with self._shared.use() as (pidfd,):
                    self._look(pidfd)
            except LetGoError:
                super()._internal_poll(_deadstate)  # type: ignore[misc]
        return self.returncode

    def _wait(self, timeout: float | None) -> int | None:
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else deadline - time.monotonic()
            try:
                with self._shared.use() as (pidfd,):
                    if not wait_readable(pidfd, timeout=left):
                        assert timeout is not None
                        raise TimeoutExpired(self.args, timeout)
                    self._look(pidfd)
            except LetGoError:
                super()._wait(left)  # type: ignore[misc]
            else:
                if self.returncode is None:  # a tracer has it first
                    time.sleep(TRACER_SECONDS)
        return self.returncode

    def _look(self, pidfd: int) -> None:
        """Learn the exit status first, and collect afterwards: any number may do so at once."""
        try:
            ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            # Where SIGCHLD is ignored, the kernel reaps the child. Before Linux 6.15 nobody learns
            # how it ended, and subprocess says 0.
            self._end_with(_core.lost_returncode(pidfd) or 0)
            return
        if ended is not None:
            is_exit = ended.si_code == os.CLD_EXITED
            try:
                self._end_with(ended.si_status if is_exit else -ended.si_status)
            finally:
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)

    def _end_with(self, status: int) -> None:
        if self.returncode is None:
            self.returncode = status
        self.pidfd = -1
        self._shared.close()

    def send_signal(self, sig: int) -> None:
        """Send a signal to the child, if it has not been waited for."""
        if self.poll() is not None:
            return
        try:
            with contextlib.suppress(ProcessLookupError), self._shared.use() as (pidfd,):
                signal.pidfd_send_signal(pidfd, sig)
        except LetGoError:
            super().send_signal(sig)

    # What whoever runs a command asks of it, be it a child or not.

    def _signal(self, sig: int) -> None:
        """Send a signal to the child, which an event loop collects: not here, under its hands."""
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd >= 0:
                signal.pidfd_send_signal(self.pidfd, sig)
            else:
                # It has ended; or it is garbage, and was finalised first.
                self.send_signal(sig)

    def _kill_all(self) -> None:
        """Kill what can be killed: nobody knows what the child has started."""
        self._signal(signal.SIGKILL)

    def _end(self) -> None:
        """Kill it, and wait for its end."""
        self.kill()
        self.wait()

    def _abandon(self) -> None:
        """Wait no more: it is killed, and is collected some day."""

    def _keep(self) -> None:
        """Stay able to kill what the command has left, until :meth:`_let_go`."""

    def _let_go(self) -> None:
        """Leave alone what it has left."""

    def __del__(self, *arguments: Any) -> None:
        if self.pidfd >= 0:
            self.pidfd = -1
            self._shared.close()
            if os.getpid() != self._owner:
                drop_streams(self)
                return
        try:
            super().__del__(*arguments)
        finally:
            # Where warnings are errors, that has ended before it put down whom to collect: the
            # child would stay a zombie, and a PID namespace, which waits for it, without an end.
            waiting = subprocess._active  # type: ignore[attr-defined]
            is_running = self._child_created and self.returncode is None
            if is_running and waiting is not None and self not in waiting:
                waiting.append(self)


def drop_streams(popen: subprocess.Popen[Any]) -> None:
    """Close a forked child's copies of the parent's ends of pipes, and write nothing to them.

    What the parent has not flushed yet is in the child's copy of the buffer, too.
    """
    for stream in (popen.stdin, popen.stdout, popen.stderr):
        buffered = getattr(stream, "buffer", stream)
        raw = getattr(buffered, "raw", buffered)
        if raw is not None:
            raw.close()
