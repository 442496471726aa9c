"""The agent of a sandbox, as this process knows it: by a socket, and nothing else.

It is a program of ours (csrc/programs/agent/), but it runs where a stranger may be root. So nothing
that comes from there is believed before it is checked, and nothing is waited for without an end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Sequence

from usernsctl._system.descriptors import LetGoError, SharedSocket, wait_readable
from usernsctl._system.owned import Connection
from usernsctl.errors import RunscError
from usernsctl.gvisor import agent_wire as wire

# How often to try again where this user has too many descriptors under way, in seconds.
_LOOK_SECONDS = 0.005

_SEND_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class AgentGone(Exception):
    """The agent has ended, and got nothing of what was to be sent to it."""


class AgentLate(Exception):
    """The agent did not do in time what was to be waited for."""


class AgentSilent(RunscError):
    """The agent does not answer."""


def agent_error(id: str, what: str, kind: type[RunscError] = RunscError) -> RunscError:
    """The error for an agent that is of no use.

    :param id: of its sandbox.
    :param what: what is wrong with it.
    """
    return kind(
        f"the agent in the sandbox {id} {what}",
        step="agent",
        cause="sandbox-agent",
        remedy="a program inside may have stopped it or taken it over: close the sandbox",
    )


def shut(connection: Connection) -> None:
    """Have the other end see the end, though a fork of this process may have our end, too."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def seconds_left(deadline: float | None) -> float | None:
    """The seconds until a moment of the monotonic clock; ``None``: there is no such moment."""
    return None if deadline is None else max(deadline - time.monotonic(), 0)


def send_order(connection: Connection, message: bytes, deadline: float) -> None:
    """Send something about a command, by its connection.

    :param deadline: until when, by the monotonic clock.
    :raises AgentLate: the agent took nothing of what was sent before.
    :raises ConnectionError: it has ended.
    """
    while True:
        try:
            connection.send(message, _SEND_FLAGS)
            return
        except BlockingIOError:
            _await_room(connection, deadline)


def _await_room(connection: Connection, deadline: float) -> None:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLOUT)
    left = seconds_left(deadline)
    if not left or not poll.poll(1 + int(left * 1000)):
        raise AgentLate


class Agent:
    """A connection to an agent that has said who it is.

    :ivar pid: the agent's own, inside.
    """

    def __init__(self, connection: Connection, pid: int) -> None:
        """Take over our end of the connection."""
        self.pid = pid
        self._owner = os.getpid()
        self._shared = SharedSocket("the connection to the agent", connection)

    def send(self, message: bytes, fds: Sequence[int], deadline: float) -> None:
        """Send a message that has a command started.

        :param fds: what goes with it; they stay the caller's.
        :param deadline: until when, by the monotonic clock.
        :raises AgentGone: nobody has got it.
        :raises AgentLate: it could not be sent in time.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _packed(fds))]
        try:
            with self._shared.use():
                while True:
                    try:
                        self._shared.socket.sendmsg([message], rights, _SEND_FLAGS)
                        return
                    except BlockingIOError:
                        _await_room(self._shared.socket, deadline)
                    except OSError as error:
                        if error.errno != errno.ETOOMANYREFS:
                            raise
                        # So many were sent by this user, and not yet received (unix(7)).
                        _pause(deadline)
        except (BrokenPipeError, ConnectionError, LetGoError) as error:
            raise AgentGone from error

    async def room_async(self, deadline: float) -> None:
        """Wait until something can be sent at once, or the agent has ended.

        :param deadline: until when, by the monotonic clock.
        :raises AgentLate: it took nothing of what was sent before.
        """
        while not self._has_room():
            if not seconds_left(deadline):
                raise AgentLate
            await pause_async()

    def _has_room(self) -> bool:
        try:
            with self._shared.use():
                poll = select.poll()
                poll.register(self._shared.socket.fileno(), select.POLLOUT)
                return bool(poll.poll(0))
        except LetGoError:
            return True

    def told_failure(self) -> wire.Failed | None:
        """What it has told of a message of ours whose own socket it did not get."""
        with contextlib.suppress(OSError, LetGoError, wire.Lie), self._shared.use():
            told = wire.read_start(self._shared.socket.recv(wire.MESSAGE_MAX))
            return told if isinstance(told, wire.Failed) else None
        return None

    def is_alive(self) -> bool:
        """Whether it may get messages: its end was not seen."""
        try:
            with self._shared.use():
                poll = select.poll()
                poll.register(self._shared.socket.fileno(), select.POLLRDHUP)
                return not poll.poll(0)
        except LetGoError:
            return False

    def close(self) -> None:
        """Have it end all commands that it has started and that run, and then itself.

        In a fork of the process that has it, this closes the connection there, and no more.
        """
        with contextlib.suppress(LetGoError), self._shared.use():
            if os.getpid() == self._owner:
                shut(self._shared.socket)
        self._shared.close()


def _packed(fds: Sequence[int]) -> bytes:
    import array

    return array.array("i", fds).tobytes()


def _pause(deadline: float) -> None:
    left = seconds_left(deadline)
    if not left:
        raise AgentLate
    time.sleep(min(left, _LOOK_SECONDS))


async def pause_async() -> None:
    """Let an event loop go on, before it is looked again whether something can be done."""
    import asyncio

    await asyncio.sleep(_LOOK_SECONDS)


def await_hello(connection: Connection, deadline: float) -> int:
    """Wait for an agent to say who it is: its pid inside.

    :param deadline: until when, by the monotonic clock.
    :raises AgentGone: it ended before.
    :raises AgentLate: it said nothing in time.
    :raises Lie: it said something else.
    """
    if not wait_readable(connection.fileno(), timeout=seconds_left(deadline)):
        raise AgentLate
    try:
        told = connection.recv(wire.MESSAGE_MAX)
    except (BlockingIOError, ConnectionError):
        told = b""
    if not told:
        raise AgentGone
    return wire.read_hello(told)


class AgentHolder:
    """The one agent that a sandbox has for this object: started when it is needed first.

    One that has ended is replaced when the next command is started. There is no lock, which a
    handler of signals would wait for in vain: who has interrupted a start makes one of his own.
    """

    def __init__(
        self,
        start: Callable[[float], Agent],
        start_async: Callable[[float], Awaitable[Agent]] | None = None,
    ) -> None:
        """Have `start` make one, which is told until when, by the monotonic clock.

        :param start_async: does the same for an event loop.
        """
        self._start = start
        self._start_async = start_async
        self._agent: Agent | None = None
        self._closed = False
        # Who is about to start one: the process, for a fork has this, too; the thread; the task.
        self._starters: set[tuple[int, int, object]] = set()

    def current(self) -> Agent | None:
        """The agent, if there is one that lives."""
        agent = self._agent
        return agent if agent is not None and agent.is_alive() else None

    def get(self, deadline: float) -> Agent:
        """The agent; where there is none it is started.

        :raises AgentLate: somebody else's start of it took too long.
        :raises BaseException: what the start raises.
        """
        process, thread = os.getpid(), threading.get_ident()
        while True:
            agent = self.current()
            if agent is not None:
                return agent
            # What this thread has begun will not go on before this comes to its end.
            if not any(one[0] == process and one[1] != thread for one in self._starters.copy()):
                break
            _pause(deadline)
        own = (process, thread, None)
        try:
            self._starters.add(own)
            return self.keep(self._start(deadline))
        finally:
            self._starters.discard(own)

    async def get_async(self, deadline: float) -> Agent:
        """The same from asyncio.

        :raises AgentLate: somebody else's start of it took too long.
        :raises BaseException: what the start raises.
        """
        import asyncio

        assert self._start_async is not None
        own = (os.getpid(), threading.get_ident(), asyncio.current_task())
        while True:
            agent = self.current()
            if agent is not None:
                return agent
            if not any(one[0] == own[0] and one != own for one in self._starters.copy()):
                break
            if not seconds_left(deadline):
                raise AgentLate
            await pause_async()
        try:
            self._starters.add(own)
            return self.keep(await self._start_async(deadline))
        finally:
            self._starters.discard(own)

    def keep(self, made: Agent) -> Agent:
        """Take over an agent that was started, unless there is one already: the one to be used."""
        # Somebody else may have been as fast.
        agent = self.current()
        if agent is not None:
            made.close()
            return agent
        before, self._agent = self._agent, made
        if before is not None:
            before.close()
        if self._closed:
            made.close()
        return made

    def close(self) -> None:
        """Let go of the agent, and with it of all that it has started. Waits for nobody."""
        self._closed = True
        agent = self._agent
        if agent is not None:
            agent.close()
