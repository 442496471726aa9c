"""The result and the resource usage of a command in a sandbox."""

from __future__ import annotations

from subprocess import CompletedProcess
from typing import AnyStr, Literal, NamedTuple

#: The values of :attr:`Result.reason`.
Reason = Literal[
    "exited",
    "signalled",
    "timeout",
    "idle-timeout",
    "memory-limit",
    "pids-limit",
    "output-limit",
    "sandbox-ended",
    "killed",
    "start-failed",
]


class Usage(NamedTuple):
    """The resource usage of a command and of the children for which it has waited (getrusage(2)).

    gVisor counts the usage. The user and the system CPU time (`utime`, `stime`) are in seconds, and
    the peak memory usage (`maxrss`) is in KiB.
    """

    utime: float
    stime: float
    maxrss: int


class SandboxUsage(NamedTuple):
    """The memory, the processes and the CPU time of a running sandbox.

    The numbers include gVisor's own processes.

    :ivar int memory: the memory to which the limit `memory` applies, in bytes. This is the sum of
        two parts: the memory of programs and of files in memory (``st_blocks`` of gVisor's memory
        file, a memfd), and the anonymous memory and page tables of gVisor's own processes
        (``RssAnon`` and ``VmPTE``, proc_pid_status(5)).
    :ivar int pids: the number of host processes and threads to which the limit `pids` applies.
        These are the threads of gVisor's kernel, and of the processes that it has started
        (``/proc/PID/task``).
    :ivar float processor_time: the CPU time of all processes that run now, user and system time
        together, in seconds (clock_getcpuclockid(3)).
    """

    memory: int
    pids: int
    processor_time: float


class Result(CompletedProcess[AnyStr]):
    """The result of a command in a sandbox, a :class:`subprocess.CompletedProcess`.

    :ivar args: the command and its arguments, as the caller passed them.
    :ivar int returncode: the exit status of the command, or -N if signal N killed it.
    :ivar stdout: the standard output, text or bytes; ``None`` if it was not captured.
    :ivar stderr: the standard error, text or bytes; ``None`` if it was not captured.
    :ivar reason: the reason why the command ended. ``"exited"`` means that the command exited, with
        any exit status; ``"signalled"`` that a signal killed the command; ``"killed"`` that the
        caller killed the command, or killed or closed the sandbox; ``"sandbox-ended"`` that the
        sandbox ended before the command exited. ``"memory-limit"``, ``"timeout"`` (`ttl`),
        ``"idle-timeout"`` and the other limits mean that the limit was reached. The Python
        functions raise an exception instead of returning ``"start-failed"``.
    :ivar limit: the limit that was reached: a number of bytes, of processes and threads, or, for
        ``"timeout"`` and ``"idle-timeout"``, of seconds. ``None`` if no limit was reached, or its
        value is not known.
    :ivar used: the usage that reached the limit, in the unit of `limit`.
    :ivar rusage: the resource usage of the command. For a command in a running sandbox, gVisor
        counts the usage of the command and of the children for which it has waited. For the first
        command of a sandbox, the usage is that of all the sandbox's host processes. ``None`` if the
        usage is not known, as for a detached sandbox.
    :ivar peak_memory: the peak memory usage of the whole sandbox, in bytes, as its memory limit
        counts it. ``None`` if the sandbox has not reached that limit. The file of ``usernsctl run
        --result`` contains the number for every run with a limit for memory or processes.
    :ivar int denied: the number of connections that the sandbox's proxy (`allow`) denied. For the
        first command of a sandbox, all since the start of the sandbox count; for other commands,
        those while the command ran.
    :ivar int stdout_truncated: the number of bytes that are missing in the middle of `stdout` if it
        contains only `max_output` bytes: half from the beginning of the output, half from the end.
    :ivar int stderr_truncated: the number of bytes that are missing in the middle of `stderr`.
    """

    # Set defaults as class attributes, because a constructor in Python would cost each command some
    # microseconds.
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
        """The exit status as a shell reports it: :attr:`returncode`, but 128+N instead of -N."""
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    def __repr__(self) -> str:
        shown = super().__repr__()
        return shown if self.reason == "exited" else f"{shown[:-1]}, reason={self.reason!r})"
