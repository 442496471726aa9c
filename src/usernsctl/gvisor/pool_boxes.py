"""Sandboxes for a pool: how they are made, looked at, cleaned and ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from usernsctl.commands.popen import DEVNULL
from usernsctl.errors import (
    CommandNotExecutableError,
    CommandNotFoundError,
    PoolError,
    RunscError,
)
from usernsctl.gvisor.agent import agent_error
from usernsctl.gvisor.leftovers import check_leftovers, read_leftovers
from usernsctl.gvisor.sandbox import Sandbox

#: How long the agent of a sandbox that waits is waited for when it is handed out, in seconds.
CHECK_SECONDS = 5

# How long that may take which is still to end, when a sandbox is cleaned.
_CLEAN_SECONDS = 10

# No program: whatever is inside, the agent starts a process for it, which can't be executed, and
# says so (EACCES, execve(2)).
_NOTHING = "/"
_WARMING = ("true",)
_STREAMS: dict[str, Any] = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}


class Boxes:
    """What a pool does with its sandboxes, wherever they come from."""

    def __init__(
        self,
        start: Callable[[], Sandbox],
        start_seconds: float,
        *,
        warms: bool = False,
        reuses: bool = False,
    ) -> None:
        """Have them started in some way.

        :param start: starts one, and returns when it runs.
        :param start_seconds: how long its agent may take then until it answers.
        :param warms: whether a command that does nothing is run in each. By that, gVisor gets to
            know the files that most programs need, so that the next command starts sooner.
        :param reuses: whether they have several users, one after the other.
        """
        self._start = start
        self._start_seconds = start_seconds
        self._warms = warms
        self._reuses = reuses
        # What each had before its first user.
        self._before: WeakKeyDictionary[Sandbox, set[tuple[bytes, bytes]]] = WeakKeyDictionary()

    def make(self) -> Sandbox:
        """Start one, and its agent.

        :raises PoolError: the sandbox is detached, and so would outlive the pool.
        :raises BaseException: what the start raises, and :meth:`check`.
        """
        box = self._start()
        try:
            if box.detached:
                raise PoolError(
                    "the pool's template has started a detached sandbox, which would outlive the "
                    "pool",
                    step="pool",
                    remedy="let start() of the template leave out detach=True",
                )
            self._look(box, self._start_seconds)
            if self._warms:
                self._warm(box)
            if self._reuses:
                self._before[box] = read_leftovers(box, self._start_seconds)
        except BaseException:
            box.close()
            raise
        return box

    def _warm(self, box: Sandbox) -> None:
        with contextlib.suppress(CommandNotFoundError, CommandNotExecutableError):
            box.run(_WARMING, **_STREAMS, timeout=self._start_seconds)

    def check(self, box: Sandbox) -> None:
        """See whether its agent starts commands.

        :raises TimeoutExpired: it does not answer.
        :raises UsernsError: it is of no use, or the sandbox has ended.
        """
        self._look(box, CHECK_SECONDS)

    def _look(self, box: Sandbox, seconds: float) -> None:
        try:
            box.run([_NOTHING], **_STREAMS, timeout=seconds)
        except CommandNotExecutableError:
            return
        raise _lied(box)

    async def check_async(self, box: Sandbox) -> None:
        """The same from asyncio.

        :raises TimeoutError: it does not answer.
        :raises UsernsError: it is of no use, or the sandbox has ended.
        """
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                process = await box.create_subprocess_exec(_NOTHING, **_STREAMS)
        except CommandNotExecutableError:
            return
        process.kill()
        raise _lied(box)

    def clean(self, box: Sandbox) -> None:
        """End all that was started in it, and check that nothing is left of that.

        :raises TimeoutExpired: its agent does not answer.
        :raises UsernsError: that could not be done, or something is left.
        """
        box._end_others(_CLEAN_SECONDS)
        self._look(box, self._start_seconds)
        check_leftovers(box, self._before[box], self._start_seconds)

    def kill(self, box: Sandbox) -> None:
        """End all that is in it."""
        box.kill()

    def end(self, box: Sandbox) -> None:
        """Close it."""
        box.close()

    def pidfd(self, box: Sandbox) -> int:
        """That of its process 1, on this side."""
        return box.init.pidfd


def _lied(box: Sandbox) -> RunscError:
    return agent_error(box.id, "is not to be believed: it says that it runs a directory")
