"""How a running sandbox gets its agent: by ``runsc exec``, once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Iterator, Sequence

from usernsctl._system.owned import Connection, memory_file, owned, pipe, socket_pair
from usernsctl.commands.aio import wait_for_end
from usernsctl.commands.popen import DEVNULL, Popen, TimeoutExpired
from usernsctl.errors import NamespaceError, RunscError
from usernsctl.gvisor import agent_wire as wire
from usernsctl.gvisor import logs
from usernsctl.gvisor.agent import (
    Agent,
    AgentGone,
    AgentLate,
    agent_error,
    await_hello,
    seconds_left,
    shut,
)
from usernsctl.gvisor.decide import AGENT_INSIDE
from usernsctl.gvisor.detached import Detached
from usernsctl.gvisor.held import Held, SandboxEnded
from usernsctl.gvisor.inherited import agent_process

# How long after a failure of runsc the end of a sandbox is taken for its reason, in seconds: from
# the end of its command to its own, it answers no more.
ENDING_SECONDS = 1

# What an agent says of itself is about a line.
_SAID_MAX = 4096

# How long runsc is waited for that has let go of the connection, in seconds.
_END_SECONDS = 5

# Of its message that there is no such file inside.
_MISSING = "no such file or directory"


@contextlib.contextmanager
def known_end(life: Held | Detached, id: str) -> Iterator[None]:
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


def start_agent(
    life: Held | Detached, id: str, deadline: float, options: Sequence[str] = ()
) -> Agent:
    """Start an agent in a running sandbox.

    runsc is killed as soon as the agent has spoken: it would wait for the agent's end.

    :param id: of the sandbox.
    :param deadline: until when, by the monotonic clock.
    :param options: of the agent's.
    :raises SandboxEnded: the sandbox has ended.
    :raises RunscError: there is no agent to be had.
    :raises AgentLate: it took too long.
    :raises OSError: there are no descriptors left.
    """
    ours, theirs = socket_pair()
    try:
        with theirs, _starter(life, id, theirs, options) as starter:
            theirs.close()
            try:
                pid = await_hello(ours, deadline)
            except AgentGone:
                raise starter.failure(deadline) from None
            except wire.Lie as error:
                raise agent_error(id, f"is none: {error}") from None
        return Agent(ours, pid)
    except BaseException:
        shut(ours)
        ours.close()
        raise


async def start_agent_async(
    life: Held | Detached, id: str, deadline: float, options: Sequence[str] = ()
) -> Agent:
    """The same from asyncio. If it is cancelled, nothing is left of it.

    :raises SandboxEnded: as :func:`start_agent` does.
    :raises RunscError: likewise.
    :raises AgentLate: likewise.
    :raises OSError: likewise.
    """
    ours, theirs = socket_pair()
    try:
        with theirs, _starter(life, id, theirs, options) as starter:
            theirs.close()
            try:
                async with asyncio.timeout(seconds_left(deadline)):
                    await wait_for_end(ours.fileno())
                pid = await_hello(ours, deadline)
            except TimeoutError:
                raise AgentLate from None
            except AgentGone:
                raise await asyncio.to_thread(starter.failure, deadline) from None
            except wire.Lie as error:
                raise agent_error(id, f"is none: {error}") from None
        return Agent(ours, pid)
    except BaseException:
        shut(ours)
        ours.close()
        raise


class FirstAgent:
    """The agent that is process 1 of a sandbox, while that is started; for a block.

    :ivar streams: the standard input, output and error of process 1, as a Popen takes them.
    """

    def __init__(self, id: str) -> None:
        """Make the connection.

        :param id: of the sandbox.
        :raises OSError: there are no descriptors left.
        """
        self._id = id
        self._is_got = False
        self._ours, self._theirs = socket_pair()
        try:
            self._said, self._says = pipe(os.O_NONBLOCK)
        except BaseException:
            self._ours.close()
            self._theirs.close()
            raise
        self.streams = {"stdin": self._theirs, "stdout": DEVNULL, "stderr": self._says}

    def get(self, life: Held | Detached, deadline: float) -> Agent:
        """The agent, once it has spoken.

        :param life: what holds the sandbox.
        :param deadline: until when, by the monotonic clock.
        :raises AgentLate: it took too long.
        :raises RunscError: it is of no use.
        """
        self._theirs.close()
        self._says.close()
        try:
            pid = await_hello(self._ours, deadline)
        except AgentGone:
            life.ends_within(ENDING_SECONDS)
            raise _ended_at_once(self._id, self._said.fileno()) from None
        except wire.Lie as error:
            raise agent_error(self._id, f"is none: {error}") from None
        agent = Agent(self._ours, pid)
        self._is_got = True
        return agent

    def __enter__(self) -> FirstAgent:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._theirs, self._says, self._said):
            one.close()
        if not self._is_got:
            shut(self._ours)
            self._ours.close()


def _ended_at_once(id: str, said: int) -> RunscError:
    """The error for an agent that has ended without a word, but for what it wrote for users."""
    told = b""
    with contextlib.suppress(BlockingIOError):
        told = os.read(said, _SAID_MAX)
    words = told.decode(errors="replace").strip()
    return agent_error(id, f"has ended at once: {words}" if words else "has ended at once")


class _Starter:
    """``runsc exec`` of an agent, and what it says."""

    def __init__(
        self, life: Held | Detached, id: str, popen: Popen[bytes], errors: int, said: int
    ) -> None:
        self._life = life
        self._id = id
        self._popen = popen
        self._errors = errors
        self._said = said

    def failure(self, deadline: float) -> RunscError | SandboxEnded:
        """Why there is no agent, when its end of the connection was closed."""
        with contextlib.suppress(TimeoutExpired):
            self._popen.wait(min(_END_SECONDS, seconds_left(deadline) or 0))
        told = logs.own_failure(self._errors)
        if self._life.ends_within(ENDING_SECONDS):
            return SandboxEnded.of(self._id)
        if told is not None and os.path.basename(AGENT_INSIDE) in told and _MISSING in told:
            return RunscError(
                f"the sandbox {self._id} shows no {AGENT_INSIDE}, which starts commands in it",
                step="agent",
                cause="sandbox-agent",
                remedy="an older version of usernsctl may have started it: close it, and start it "
                "anew",
            )
        if told is not None:
            return RunscError(
                f"the agent of the sandbox {self._id} could not be started: {logs.said(told)}",
                step="agent",
            )
        return _ended_at_once(self._id, self._said)


@contextlib.contextmanager
def _starter(
    life: Held | Detached, id: str, theirs: Connection, options: Sequence[str]
) -> Iterator[_Starter]:
    """Have runsc start an agent, for a block; at its end runsc is gone.

    :param theirs: the standard input of the agent.
    """
    process = json.dumps(agent_process(life.inherited, AGENT_INSIDE, *options))
    with (
        memory_file("process.json", process.encode()) as file,
        memory_file("errors") as errors,
        contextlib.ExitStack() as opened,
    ):
        said, says = map(opened.enter_context, pipe(os.O_NONBLOCK))
        nothing = opened.enter_context(owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
        log = [f"--log=/proc/self/fd/{errors.fileno()}", "--log-format=json"]
        process_file = f"--process=/proc/self/fd/{file.fileno()}"
        with life.runsc(*log, "exec", process_file, id) as (command, needed), known_end(life, id):
            fds = [*needed["pass_fds"], file.fileno(), errors.fileno()]
            needed = {**needed, "pass_fds": fds}
            popen = Popen[bytes](command, stdin=theirs, stdout=nothing, stderr=says, **needed)
        try:
            # Whoever ends the sandbox may have to collect it in our place.
            needed["namespace"].commands.add(popen)
            says.close()
            yield _Starter(life, id, popen, errors.fileno(), said.fileno())
        finally:
            popen.kill()
            popen.wait()
