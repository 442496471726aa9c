"""How a running sandbox gets its agent, and what all its commands have in common."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from usernsctl._lean import LateModule, dataclass
from usernsctl._system.deadlines import seconds_left
from usernsctl._system.descriptors import Connection, memory_file, open_owned, pipe, socket_pair
from usernsctl.commands.popen import DEVNULL, Popen, TimeoutExpired
from usernsctl.errors import RunscError
from usernsctl.gvisor.agent import protocol as wire
from usernsctl.gvisor.agent.protocol import (
    Agent,
    AgentClosed,
    AgentTimeout,
    agent_error,
    receive_hello,
    shut,
)
from usernsctl.gvisor.launch.steps import AGENT_INSIDE
from usernsctl.gvisor.runsc import logs
from usernsctl.gvisor.runsc.container import ENDING_SECONDS, Container, SandboxEnded, raise_if_ended
from usernsctl.gvisor.runsc.releases import Release
from usernsctl.hardening import CAPABILITIES

if TYPE_CHECKING:
    import asyncio

    from usernsctl.commands import aio
else:
    asyncio = LateModule("asyncio")
    aio = LateModule("usernsctl.commands.aio")

# What the agent needs to start a command as another user, with fewer capabilities, with limits that
# are higher than its own, and to end it.
_OF_AGENT = ("CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_RESOURCE")
# To make namespaces.
_TO_UNSHARE = "CAP_SYS_ADMIN"
#: Options of an agent that makes namespaces for itself and its commands
#: (csrc/programs/agent/main.c).
OWN_IPC, OWN_NET = "--own-ipc", "--own-net"

#: The annotation that has what the commands of a sandbox have in common where its process 1 is the
#: agent, which has less and more.
OF_COMMANDS = "usernsctl.commands"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDefaults:
    """What the commands of a sandbox have in common.

    :ivar env: the environment, each entry NAME=VALUE.
    :ivar rlimits: each a name like ``"RLIMIT_NOFILE"``, the soft limit and the hard one.
    :ivar capabilities: the names of those that root has.
    :ivar capability_set: the same, a bit for each.
    :ivar no_new_privs: whether set-user-id programs have no effect.
    """

    env: tuple[str, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()
    capabilities: tuple[str, ...] = ()
    capability_set: int = 0
    no_new_privs: bool = True

    @classmethod
    def of(cls, process: Mapping[str, Any]) -> ProcessDefaults:
        """Read the ``process`` of a config.json.

        :raises ArithmeticError: it is malformed.
        :raises AttributeError: likewise.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        limits = process.get("rlimits") or ()
        bounding = (process.get("capabilities") or {}).get("bounding") or ()
        names = tuple(map(str, bounding))
        known = {CAPABILITIES.index(name) for name in names if name in CAPABILITIES}
        return cls(
            env=tuple(map(str, process.get("env") or ())),
            rlimits=tuple((str(one["type"]), int(one["soft"]), int(one["hard"])) for one in limits),
            capabilities=names,
            capability_set=sum(1 << number for number in known),
            no_new_privs=bool(process.get("noNewPrivileges", False)),
        )

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ProcessDefaults:
        """Read a config.json, also one that :func:`set_agent_as_init` has changed.

        :raises ArithmeticError: as :meth:`of` does.
        :raises AttributeError: likewise.
        :raises LookupError: likewise.
        :raises TypeError: likewise.
        :raises ValueError: likewise.
        """
        kept = (config.get("annotations") or {}).get(OF_COMMANDS)
        return cls.of(config["process"] if kept is None else json.loads(kept))


def agent_process(
    inherited: ProcessDefaults, *words: str, is_bounded: bool = False
) -> dict[str, Any]:
    """The ``process`` of the OCI runtime specification for an agent.

    Its environment may be seen by everybody inside, and limits would be in its way: its commands
    get both from it.

    :param words: its command.
    :param is_bounded: whether its bounding set is that of its commands, where it keeps what is not
        in that. Otherwise it takes that from each of them.
    """
    capabilities = {*inherited.capabilities, *_OF_AGENT}
    if not {OWN_IPC, OWN_NET}.isdisjoint(words):
        capabilities.add(_TO_UNSHARE)
    return {
        "args": [*words],
        "user": {"uid": 0, "gid": 0},
        "cwd": "/",
        "env": [],
        "capabilities": {
            "bounding": sorted(inherited.capabilities if is_bounded else capabilities),
            "effective": sorted(capabilities),
            "permitted": sorted(capabilities),
        },
        "noNewPrivileges": inherited.no_new_privs,
    }


def set_agent_as_init(config: dict[str, Any], release: Release, *words: str) -> None:
    """Have an agent be process 1, in place of the command that a config.json has.

    What process 1 has in its bounding set, older releases have gVisor's own process have on this
    machine.

    :param release: of the runsc that starts it.
    :param words: the agent's.
    """
    process = config["process"]
    kept = {name: process.get(name) for name in ("env", "rlimits", "capabilities")}
    kept["noNewPrivileges"] = process.get("noNewPrivileges", False)
    config["annotations"] = {**(config.get("annotations") or {}), OF_COMMANDS: json.dumps(kept)}
    config["process"] = agent_process(
        ProcessDefaults.of(process), *words, is_bounded=not release.has("bounded-first")
    )


# What an agent says of itself is about a line.
_SAID_MAX = 4096

# How long runsc is waited for that has let go of the connection, in seconds.
_END_SECONDS = 5

# Of its message that there is no such file inside.
_MISSING = "no such file or directory"


class AgentContainer(Container, Protocol):
    """A running sandbox in which an agent can be started."""

    @property
    def inherited(self) -> ProcessDefaults:
        """What all its commands have in common."""

    def kill(self) -> None:
        """Kill everything in the sandbox; do not wait for its end."""


def start_agent(
    life: AgentContainer, id: str, deadline: float, options: Sequence[str] = ()
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
    with _connection() as (ours, theirs), _starter(life, id, theirs, options) as starter:
        try:
            return _greeted(ours, id, deadline)
        except AgentClosed:
            raise starter.failure(deadline) from None


async def start_agent_async(
    life: AgentContainer, id: str, deadline: float, options: Sequence[str] = ()
) -> Agent:
    """The same from asyncio. If it is cancelled, nothing is left of it.

    :raises SandboxEnded: as :func:`start_agent` does.
    :raises RunscError: likewise.
    :raises AgentLate: likewise.
    :raises OSError: likewise.
    """
    with _connection() as (ours, theirs), _starter(life, id, theirs, options) as starter:
        try:
            async with asyncio.timeout(seconds_left(deadline)):
                await aio.wait_for_end(ours.fileno())
            return _greeted(ours, id, deadline)
        except TimeoutError:
            raise AgentTimeout from None
        except AgentClosed:
            raise await asyncio.to_thread(starter.failure, deadline) from None


@contextlib.contextmanager
def _connection() -> Iterator[tuple[Connection, Connection]]:
    """Make a connection for a block: our end, which stays open if the block succeeds, and theirs.

    :raises OSError: there are no descriptors left.
    """
    ours, theirs = socket_pair()
    try:
        with theirs:
            yield ours, theirs
    except BaseException:
        shut(ours)
        ours.close()
        raise


def _greeted(ours: Connection, id: str, deadline: float) -> Agent:
    """Wait for an agent's first message, and return the agent.

    :raises AgentTimeout: none came before the deadline.
    :raises AgentClosed: the agent ended before.
    :raises RunscError: the message is none of an agent.
    """
    try:
        return Agent(ours, receive_hello(ours, deadline))
    except wire.ProtocolError as error:
        raise agent_error(id, f"is none: {error}") from None


class InitAgent:
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
        self.streams: dict[str, Any] = {
            "stdin": self._theirs,
            "stdout": DEVNULL,
            "stderr": self._says,
        }

    def get(self, life: AgentContainer, deadline: float) -> Agent:
        """The agent, once it has spoken.

        :param life: what holds the sandbox.
        :param deadline: until when, by the monotonic clock.
        :raises AgentLate: it took too long.
        :raises RunscError: it is of no use.
        """
        self._theirs.close()
        self._says.close()
        try:
            agent = _greeted(self._ours, self._id, deadline)
        except AgentClosed:
            life.ends_within(ENDING_SECONDS)
            raise _ended_at_once(self._id, self._said.fileno()) from None
        self._is_got = True
        return agent

    def __enter__(self) -> InitAgent:
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
        self,
        life: AgentContainer,
        id: str,
        popen: Popen[bytes],
        errors: int,
        said: int,
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
                f"the agent of the sandbox {self._id} could not be started: "
                f"{logs.quote_runsc(told)}",
                step="agent",
            )
        return _ended_at_once(self._id, self._said)


@contextlib.contextmanager
def _starter(
    life: AgentContainer, id: str, theirs: Connection, options: Sequence[str]
) -> Iterator[_Starter]:
    """Have runsc start an agent, for a block; at its end runsc is gone.

    :param theirs: the standard input of the agent, which is closed here once runsc has it.
    """
    process = json.dumps(agent_process(life.inherited, AGENT_INSIDE, *options))
    with (
        memory_file("process.json", process.encode()) as file,
        memory_file("errors") as errors,
        contextlib.ExitStack() as opened,
    ):
        said, says = map(opened.enter_context, pipe(os.O_NONBLOCK))
        nothing = opened.enter_context(open_owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
        log = [f"--log=/proc/self/fd/{errors.fileno()}", "--log-format=json"]
        process_file = f"--process=/proc/self/fd/{file.fileno()}"
        with (
            life.runsc(*log, "exec", process_file, id) as (command, needed),
            raise_if_ended(life, id),
        ):
            fds = [*needed["pass_fds"], file.fileno(), errors.fileno()]
            needed = {**needed, "pass_fds": fds}
            popen = Popen[bytes](command, stdin=theirs, stdout=nothing, stderr=says, **needed)
        try:
            # Whoever ends the sandbox may have to collect it in our place.
            needed["namespace"].commands.add(popen)
            says.close()
            theirs.close()
            yield _Starter(life, id, popen, errors.fileno(), said.fileno())
        finally:
            popen.kill()
            popen.wait()
