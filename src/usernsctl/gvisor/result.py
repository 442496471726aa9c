"""The result of a command in a sandbox."""

from __future__ import annotations

from subprocess import CompletedProcess
from typing import AnyStr, Literal, NamedTuple

#: Why a command has ended, see :class:`Result`.
Reason = Literal[
    "exited",
    "signalled",
    "timeout",
    "idle-timeout",
    "memory-limit",
    "pids-limit",
    "output-limit",
    "disk-limit",
    "sandbox-ended",
    "killed",
    "start-failed",
]


class Usage(NamedTuple):
    """The resource usage of a command and of the children that it has waited for (getrusage(2)).

    gVisor counts `utime` and `stime` in seconds, and `maxrss`, the peak of the memory, in KiB.
    """

    utime: float
    stime: float
    maxrss: int


class SandboxUsage(NamedTuple):
    """Memory, processes and processor time of a running sandbox.

    gVisor's own processes count, too.

    :ivar int memory: the memory in bytes, as `memory` limits it: the memory of the programs and of
        the files that they write into memory (the blocks of gVisor's memory file, ``st_blocks``),
        and the anonymous memory and the page tables of its processes (``RssAnon`` and ``VmPTE`` of
        proc_pid_status(5)).
    :ivar int pids: the processes and threads of this machine, as `pids` limits them: those of
        gVisor's kernel, and of the processes that it has started (``/proc/PID/task``).
    :ivar float processor_time: the processor time in seconds, of user and system together, of all
        processes that run now (clock_getcpuclockid(3)).
    """

    memory: int
    pids: int
    processor_time: float


class Result(CompletedProcess[AnyStr]):
    """The result of a command in a sandbox, a :class:`subprocess.CompletedProcess`.

    :ivar args: the command and its arguments, as they were given.
    :ivar int returncode: the exit status of the command, or -N after signal N.
    :ivar stdout: the standard output, text or bytes; ``None`` if it was not captured.
    :ivar stderr: the standard error, likewise.
    :ivar reason: the reason of the command's end. ``"exited"``: the command exited, also with an
        exit status other than 0; ``"signalled"``: a signal killed the command; ``"killed"``: the
        caller killed the command, or killed or closed the sandbox; ``"sandbox-ended"``: the sandbox
        ended first; ``"memory-limit"``, ``"timeout"`` (`ttl`), ``"idle-timeout"`` and so on: a
        limit was reached. The Python functions raise an exception in place of ``"start-failed"``.
    :ivar limit: the limit that was reached: bytes, the number of processes and threads, or, for
        ``"timeout"`` and ``"idle-timeout"``, seconds; ``None`` if none was reached, or its value is
        not known.
    :ivar used: how much of it was used, in the unit of `limit`.
    :ivar rusage: the processor time of the command, in seconds (`utime`, `stime`). For a command
        in a running sandbox, the time that gVisor counts for the command and the children that it
        has waited for. For a whole sandbox, the time of all its processes on this machine.
        ``None`` if it is not known, as for a detached sandbox.
    :ivar peak_memory: the greatest memory usage of the whole sandbox, in bytes, that its memory
        limit counts. ``None`` if the sandbox has not reached that limit: the file of ``usernsctl
        run --result`` has the number for every run with a limit of memory or processes.
    :ivar int denied: the number of connections that the proxy for allowed names (`allow`) refused:
        for a sandbox's first command, since its start; else while the command ran.
    :ivar int stdout_truncated: the number of bytes that `stdout` lacks between its halves, of
        `max_output` // 2 bytes and the rest of `max_output`.
    :ivar int stderr_truncated: the number of bytes that `stderr` lacks, likewise.
    """

    # Class attributes, which the creator of a result overrides: a constructor in Python would cost
    # each command some microseconds.
    reason: Reason = "exited"
    limit: float | None = None
    used: float | None = None
    rusage: Usage | None = None
    peak_memory: int | None = None
    denied: int = 0
    stdout_truncated: int = 0
    stderr_truncated: int = 0

    @property
    def exit_status(self) -> int:
        """The exit status as a shell has it: 128+N after signal N, else :attr:`returncode`."""
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown if self.reason == "exited" else f"{shown[:-1]}, reason={self.reason!r})"
