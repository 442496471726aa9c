"""Queries to runsc about a running container."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from usernsctl._system.descriptors import deadline_after, seconds_left
from usernsctl.commands.popen import (
    DEVNULL,
    PIPE,
    TimeoutExpired,
    read_until_exit,
    start_within,
)
from usernsctl.errors import LimitError, NamespaceError, RunscError, SandboxEndedError
from usernsctl.gvisor.result import Reason, Result


class Container(Protocol):
    """The interface of a sandbox, attached or detached, for which runsc commands can be run."""

    def runsc(self, *argv: str) -> AbstractContextManager[tuple[list[str], dict[str, Any]]]:
        """Return a context manager that yields the argv of a runsc command and Popen arguments.

        :raises SandboxEndedError: the sandbox has ended.
        """

    def ends_within(self, seconds: float) -> bool:
        """Return whether the sandbox ends within `seconds`."""

    def end_error(self) -> SandboxEndedError:
        """Return the error for a command that failed because its sandbox has ended."""


def ended_error(id: str, reason: RunscError | None = None) -> SandboxEndedError:
    """Return the error for a command that failed because its sandbox `id` has ended.

    :param reason: the error that explains why the sandbox has ended, or ``None`` if the reason is
        not known.
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
    "timeout": "timeout",
    "idle-timeout": "idle-timeout",
}


def describe_limit(result: Result[Any], error: RunscError) -> None:
    """Store in `result` why the sandbox ended: the reason, and the limit that it reached, if any.

    :param error: the error that explains why the sandbox ended.
    """
    result.reason = _REASONS.get(error.cause, "sandbox-ended")
    if isinstance(error, LimitError):
        result.limit, result.used = error.limit, error.used
        if result.reason == "memory-limit" and error.used is not None:
            result.peak_memory = int(error.used)


# The timeout for a sandbox to end after a runsc command has failed, in seconds. A sandbox whose
# first command has exited may fail to answer runsc for a short time before the sandbox ends. If the
# sandbox ends before the timeout, its end counts as the reason for the failure.
ENDING_SECONDS = 1


@contextlib.contextmanager
def raise_if_ended(life: Container, id: str) -> Iterator[None]:
    """Raise SandboxEndedError if the ``with`` body raises NamespaceError and the sandbox has ended.

    In a PID namespace whose PID 1 has exited, fork(2) fails with ENOMEM (pid_namespaces(7)), which
    causes a NamespaceError.

    :raises SandboxEndedError: the sandbox has ended.
    """
    try:
        yield
    except NamespaceError as error:
        if not life.ends_within(ENDING_SECONDS):
            raise
        raise life.end_error() from error


# The timeout of a runsc command, in seconds. runsc waits for an answer of gVisor's kernel, but
# this kernel may be stopped, or be compromised and never answer.
_ANSWER_SECONDS = 60


def query(life: Container, id: str, *argv: str, seconds: float | None = None) -> str | None:
    """Run a runsc subcommand for a sandbox; return its output, or None if the sandbox has ended.

    :param id: the id of the sandbox.
    :param argv: the subcommand of runsc and its arguments.
    :param seconds: the timeout, in seconds; ``None`` means 60.
    :raises RunscError: the command failed or timed out.
    """
    limit = _ANSWER_SECONDS if seconds is None else seconds
    try:
        with life.runsc(*argv) as (command, options), raise_if_ended(life, id):
            options |= {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
            deadline = deadline_after(limit)
            with start_within(limit, command, **options) as process:
                stdout, stderr = read_until_exit(process, seconds_left(deadline))
    except SandboxEndedError:
        return None
    except TimeoutExpired:
        raise RunscError(
            f"the sandbox {id} did not answer runsc {argv[0]} within {limit:g} seconds",
            step="runsc",
            errno=errno.ETIMEDOUT,
            remedy="end the sandbox by kill() or close(), which do not wait for runsc",
        ) from None
    if process.returncode == 0:
        return stdout.decode()
    if life.ends_within(ENDING_SECONDS):
        return None
    raise RunscError(_last_line(stderr.decode(errors="replace")), step="runsc")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "runsc failed without a message"
