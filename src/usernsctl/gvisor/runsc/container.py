"""A container that runsc runs: what runsc answers about it, and how it has ended."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.commands.popen import run as run_command
from usernsctl.errors import CommandError, NamespaceError, RunscError


class Container(Protocol):
    """A running sandbox, attached or detached, as runsc is asked about it."""

    def runsc(self, *words: str) -> AbstractContextManager[tuple[list[str], dict[str, Any]]]:
        """Enter a block with a command line of runsc, and the arguments of a Popen for it.

        :raises SandboxEnded: the sandbox has ended.
        """

    def ends_within(self, seconds: float) -> bool:
        """Return whether the sandbox ends within `seconds`."""


class SandboxEnded(CommandError):
    """There is no sandbox any more that a command could be about."""

    @classmethod
    def of(cls, id: str) -> SandboxEnded:
        """Say it of the sandbox `id`."""
        return cls(f"the sandbox {id} has ended", step="sandbox")


# How long after a failure of runsc the end of a sandbox is taken for its reason, in seconds: from
# the end of its command to its own, it answers no more.
ENDING_SECONDS = 1


@contextlib.contextmanager
def raise_if_ended(life: Container, id: str) -> Iterator[None]:
    """Say that the sandbox has ended where that is why nothing could be started in the block.

    In a PID namespace without process 1 there is no memory for another one (ENOMEM,
    pid_namespaces(7)).

    :raises SandboxEnded: so it was.
    """
    try:
        yield
    except NamespaceError as error:
        if not life.ends_within(ENDING_SECONDS):
            raise
        raise SandboxEnded.of(id) from error


# How long runsc may take. It asks gVisor, which does not answer where it was stopped, or where
# somebody has broken it.
_ANSWER_SECONDS = 60


def query(life: Container, id: str, *words: str, seconds: float | None = None) -> str | None:
    """What a command of runsc prints; ``None``: the sandbox has ended.

    :param id: of the sandbox.
    :param seconds: how long it may take; by default 60.
    :raises RunscError: it failed, or took longer.
    """
    limit = _ANSWER_SECONDS if seconds is None else seconds
    try:
        with life.runsc(*words) as (command, needed), raise_if_ended(life, id):
            needed |= {"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE}
            done = run_command(command, **needed, text=True, timeout=limit)
    except SandboxEnded:
        return None
    except TimeoutExpired:
        raise RunscError(
            f"runsc {words[0]} was not answered by the sandbox {id} within {limit:g} seconds",
            step="runsc",
            errno=errno.ETIMEDOUT,
            remedy="kill() and close() end it, whatever it does",
        ) from None
    if done.returncode == 0:
        return str(done.stdout)
    if life.ends_within(ENDING_SECONDS):
        return None
    raise RunscError(_last_line(done.stderr), step="runsc")


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "runsc failed without a word"
