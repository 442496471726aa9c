"""Queries to runsc about a running container."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.commands.popen import run as run_command
from usernsctl.errors import LimitError, NamespaceError, RunscError, SandboxEndedError
from usernsctl.gvisor.result import Reason, Result


class Container(Protocol):
    """Interface of a sandbox, attached or detached, for running runsc commands."""

    def runsc(self, *argv: str) -> AbstractContextManager[tuple[list[str], dict[str, Any]]]:
        """Return a context manager that yields the argv of a runsc command, and arguments of Popen.

        :raises SandboxEndedError: the sandbox has ended.
        """

    def ends_within(self, seconds: float) -> bool:
        """Return whether the sandbox ends within `seconds`."""

    def end_error(self) -> SandboxEndedError:
        """Return the error to raise for a command whose sandbox has ended."""


def ended_error(id: str, reason: RunscError | None = None) -> SandboxEndedError:
    """Return the error to raise for a command whose sandbox `id` has ended.

    :param reason: the error that says why the sandbox has ended, if the reason is known.
    """
    if reason is None:
        return SandboxEndedError(f"the sandbox {id} has ended", step="sandbox")
    text = f"the sandbox {id} has ended: {reason.reason}"
    return SandboxEndedError(text, step="sandbox", cause=reason.cause)


# The `reason` of a result for each `cause` of a LimitError.
_REASONS: dict[str | None, Reason] = {
    "out-of-memory": "memory-limit",
    "memory-limit": "memory-limit",
    "pids-limit": "pids-limit",
    "disk-limit": "disk-limit",
    "timeout": "timeout",
    "idle-timeout": "idle-timeout",
}


def describe_limit(result: Result[Any], error: RunscError) -> None:
    """Set the fields of `result` that describe `error`, the reason why the sandbox was killed."""
    result.reason = _REASONS.get(error.cause, "sandbox-ended")
    if isinstance(error, LimitError):
        result.limit, result.used = error.limit, error.used
        if result.reason == "memory-limit" and error.used is not None:
            result.peak_memory = int(error.used)


# A sandbox doesn't answer between the exit of its command and its own end. So if the sandbox ends
# within this number of seconds after a failure of runsc, the end is the reason for the failure.
ENDING_SECONDS = 1


@contextlib.contextmanager
def raise_if_ended(life: Container, id: str) -> Iterator[None]:
    """Convert a NamespaceError of a ``with`` block to SandboxEndedError if the sandbox has ended.

    In a PID namespace whose PID 1 has exited, fork() fails with ENOMEM (pid_namespaces(7)).

    :raises SandboxEndedError: the sandbox has ended.
    """
    try:
        yield
    except NamespaceError as error:
        if not life.ends_within(ENDING_SECONDS):
            raise
        raise life.end_error() from error


# The time limit of a runsc command, in seconds: gVisor, for whose answer runsc waits, may be
# stopped, or compromised and silent.
_ANSWER_SECONDS = 60


def query(life: Container, id: str, *argv: str, seconds: float | None = None) -> str | None:
    """Run a command of runsc for a sandbox; return its output, or None if the sandbox has ended.

    :param id: the id of the sandbox.
    :param argv: the command of runsc and its arguments.
    :param seconds: the timeout in seconds, by default 60.
    :raises RunscError: the command failed or timed out.
    """
    limit = _ANSWER_SECONDS if seconds is None else seconds
    try:
        with life.runsc(*argv) as (command, options), raise_if_ended(life, id):
            options |= {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
            done = run_command(command, **options, text=True, timeout=limit)
    except SandboxEndedError:
        return None
    except TimeoutExpired:
        raise RunscError(
            f"the sandbox {id} did not answer runsc {argv[0]} within {limit:g} seconds",
            step="runsc",
            errno=errno.ETIMEDOUT,
            remedy="end the sandbox by kill() or close(), which do not wait for runsc",
        ) from None
    if done.returncode == 0:
        return str(done.stdout)
    if life.ends_within(ENDING_SECONDS):
        return None
    raise RunscError(_last_line(done.stderr), step="runsc")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "runsc failed without a message"
