"""The start of a sandbox's agent, and the settings that all commands of a sandbox share."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from usernsctl._lean import LateModule, dataclass
from usernsctl._system.descriptors import (
    Connection,
    Shared,
    memory_file,
    open_owned,
    pipe,
    seconds_left,
    socket_pair,
)
from usernsctl.commands.popen import DEVNULL, Popen, TimeoutExpired
from usernsctl.errors import RunscError, SandboxEndedError
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
from usernsctl.gvisor.runsc.container import ENDING_SECONDS, Container, raise_if_ended
from usernsctl.gvisor.runsc.releases import Release
from usernsctl.hardening import CAPABILITIES

if TYPE_CHECKING:
    import asyncio

    from usernsctl.commands import aio
else:
    asyncio = LateModule("asyncio")
    aio = LateModule("usernsctl.commands.aio")

# The capabilities that the agent needs to start a command as another user, with fewer capabilities
# or with higher resource limits, and to kill the command.
_AGENT_CAPABILITIES = ("CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_SYS_RESOURCE")
# The capability that an agent needs to create namespaces (unshare(2)).
_UNSHARE_CAPABILITY = "CAP_SYS_ADMIN"
#: Options by which the agent creates an IPC or network namespace for itself and its commands
#: (csrc/programs/agent/main.c).
OWN_IPC, OWN_NET = "--own-ipc", "--own-net"

#: The annotation of config.json that holds the settings of commands if the agent is PID 1 of the
#: sandbox. The ``process`` then describes only the agent.
COMMANDS_ANNOTATION = "usernsctl.commands"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDefaults:
    """The settings that all commands of a sandbox share.

    :ivar env: the environment, as ``NAME=VALUE`` entries.
    :ivar rlimits: resource limits, each a name such as ``"RLIMIT_NOFILE"``, a soft limit and a hard
        limit.
    :ivar capabilities: the names of the capabilities of a command that runs as root.
    :ivar capability_set: `capabilities` as a bit mask (capabilities(7)).
    :ivar no_new_privs: whether programs can't gain privileges by set-user-id bits
        (PR_SET_NO_NEW_PRIVS(2const)).
    """

    env: tuple[str, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()
    capabilities: tuple[str, ...] = ()
    capability_set: int = 0
    no_new_privs: bool = True

    @classmethod
    def of(cls, process: Mapping[str, Any]) -> ProcessDefaults:
        """Read the settings from the ``process`` of a config.json.

        :raises ArithmeticError: the ``process`` is malformed.
        :raises AttributeError: the ``process`` is malformed.
        :raises LookupError: the ``process`` is malformed.
        :raises TypeError: the ``process`` is malformed.
        :raises ValueError: the ``process`` is malformed.
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
        """Read the settings from a config.json, even if :func:`set_agent_as_init` has changed it.

        :raises ArithmeticError: the config.json is malformed.
        :raises AttributeError: the config.json is malformed.
        :raises LookupError: the config.json is malformed.
        :raises TypeError: the config.json is malformed.
        :raises ValueError: the config.json is malformed.
        """
        saved = (config.get("annotations") or {}).get(COMMANDS_ANNOTATION)
        return cls.of(config["process"] if saved is None else json.loads(saved))


def agent_process(
    inherited: ProcessDefaults, *argv: str, is_bounded: bool = False
) -> dict[str, Any]:
    """Return the ``process`` object (OCI runtime specification) that starts an agent.

    The agent itself has no resource limits, and no environment variables, since every process in
    the sandbox could read these. The agent sets both for each command.

    :param argv: the program and the arguments of the agent.
    :param is_bounded: whether the agent's capability bounding set contains only the capabilities
        that commands may have. If not, the set contains all capabilities of the agent, and the
        agent reduces the set of each command.
    """
    capabilities = {*inherited.capabilities, *_AGENT_CAPABILITIES}
    if not {OWN_IPC, OWN_NET}.isdisjoint(argv):
        capabilities.add(_UNSHARE_CAPABILITY)
    return {
        "args": [*argv],
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


def set_agent_as_init(config: dict[str, Any], release: Release, *argv: str) -> None:
    """Change a config.json so that PID 1 of the sandbox is the agent instead of the command.

    Releases of runsc without the ability "bounded-first" (:data:`runsc.releases.ABILITIES`) apply
    the capability bounding set of PID 1 to the sentry's host process, too. With these releases, the
    agent has the bounding set of the commands, so that the sentry gets no more capabilities.

    :param release: the release of the runsc that starts the sandbox.
    :param argv: the program and the arguments of the agent.
    """
    process = config["process"]
    saved = {name: process.get(name) for name in ("env", "rlimits", "capabilities")}
    saved["noNewPrivileges"] = process.get("noNewPrivileges", False)
    annotations = config.get("annotations") or {}
    config["annotations"] = {**annotations, COMMANDS_ANNOTATION: json.dumps(saved)}
    config["process"] = agent_process(
        ProcessDefaults.of(process), *argv, is_bounded=not release.has("bounded-first")
    )


# The maximum number of bytes to read from the agent's standard error.
_STDERR_MAX = 4096

# The timeout for ``runsc exec`` to exit after the agent's connection was closed, in seconds.
_END_SECONDS = 5

# The part of an error message of runsc which means that a file does not exist in the sandbox.
_FILE_MISSING = "no such file or directory"


class AgentContainer(Container, Protocol):
    """A running sandbox in which an agent can be started.

    :ivar counts_idle: whether the sandbox has an idle timeout.
    """

    counts_idle: bool

    @property
    def inherited(self) -> ProcessDefaults:
        """The settings that all commands of the sandbox share."""

    def awaited_limit_error(self, *, is_gone: bool = False) -> RunscError | None:
        """Return an error if the sandbox ends because of a limit or for lack of memory, else None.

        :param is_gone: whether the exit status of the command is unknown; the sandbox has then
            probably ended.
        """

    def open_activity(self) -> Shared | None:
        """Open the sandbox's activity file; return None if the sandbox has no idle timeout."""

    def kill(self) -> None:
        """Kill everything in the sandbox; do not wait for the sandbox to end."""


def start_agent(
    life: AgentContainer, id: str, deadline: float, options: Sequence[str] = ()
) -> Agent:
    """Start an agent in a running sandbox.

    ``runsc exec`` is killed after the agent's first message, because it would otherwise run until
    the agent exits.

    :param id: the id of the sandbox.
    :param deadline: the deadline, as a :func:`time.monotonic` time.
    :param options: the command line options of the agent.
    :raises SandboxEndedError: the sandbox has ended.
    :raises RunscError: the agent could not be started, or its first message is invalid.
    :raises AgentTimeout: the agent sent no message before the deadline.
    :raises OSError: the process or the host has no free file descriptor.
    """
    with _connection() as (ours, theirs), _starter(life, id, theirs, options) as starter:
        try:
            return _receive_agent(ours, id, deadline)
        except AgentClosed:
            raise starter.failure(deadline) from None


async def start_agent_async(
    life: AgentContainer, id: str, deadline: float, options: Sequence[str] = ()
) -> Agent:
    """Start an agent in a running sandbox from asyncio: see :func:`start_agent`.

    If this call is cancelled, the agent exits, and runsc is killed.

    :raises SandboxEndedError: as :func:`start_agent` does.
    :raises RunscError: as :func:`start_agent` does.
    :raises AgentTimeout: as :func:`start_agent` does.
    :raises OSError: as :func:`start_agent` does.
    """
    with _connection() as (ours, theirs), _starter(life, id, theirs, options) as starter:
        try:
            async with asyncio.timeout(seconds_left(deadline)):
                await aio.wait_for_end(ours.fileno())
            return _receive_agent(ours, id, deadline)
        except TimeoutError:
            raise AgentTimeout from None
        except AgentClosed:
            raise await asyncio.to_thread(starter.failure, deadline) from None


@contextlib.contextmanager
def _connection() -> Iterator[tuple[Connection, Connection]]:
    """Create a connection to an agent; yield this process's end and the agent's end.

    The agent's end is closed after the ``with`` body, this process's end only if the body raises an
    exception.

    :raises OSError: the process or the host has no free file descriptor.
    """
    ours, theirs = socket_pair()
    try:
        with theirs:
            yield ours, theirs
    except BaseException:
        shut(ours)
        ours.close()
        raise


def _receive_agent(ours: Connection, id: str, deadline: float) -> Agent:
    """Wait for an agent's first message, and return the agent.

    :raises AgentTimeout: the agent sent no message before the deadline.
    :raises AgentClosed: the agent has exited before its first message.
    :raises RunscError: the message is not a valid first message of an agent.
    """
    try:
        return Agent(ours, receive_hello(ours, deadline))
    except wire.ProtocolError as error:
        raise agent_error(id, f"sent an invalid message: {error}") from None


class InitAgent:
    """A context manager that starts an agent as PID 1 of a sandbox.

    :ivar streams: the standard input, output and error of PID 1, as arguments for Popen.
    """

    def __init__(self, id: str) -> None:
        """Create the connection to the agent, and the pipe for the agent's standard error.

        :param id: the id of the sandbox.
        :raises OSError: the process or the host has no free file descriptor.
        """
        self._id = id
        self._is_connected = False
        self._ours, self._theirs = socket_pair()
        try:
            self._stderr_reader, self._stderr_writer = pipe(os.O_NONBLOCK)
        except BaseException:
            self._ours.close()
            self._theirs.close()
            raise
        self.streams: dict[str, Any] = {
            "stdin": self._theirs,
            "stdout": DEVNULL,
            "stderr": self._stderr_writer,
        }

    def get(self, life: AgentContainer, deadline: float) -> Agent:
        """Wait for the agent's first message, and return the agent.

        :param life: the running sandbox.
        :param deadline: the deadline, as a :func:`time.monotonic` time.
        :raises AgentTimeout: the agent sent no message before the deadline.
        :raises LimitError: a limit or lack of memory has ended the sandbox.
        :raises RunscError: the agent has exited, or its first message is invalid.
        """
        self._theirs.close()
        self._stderr_writer.close()
        try:
            agent = _receive_agent(self._ours, self._id, deadline)
        except AgentClosed:
            life.ends_within(ENDING_SECONDS)
            limit = life.awaited_limit_error(is_gone=True)
            raise limit or _early_end_error(self._id, self._stderr_reader.fileno()) from None
        self._is_connected = True
        return agent

    def __enter__(self) -> InitAgent:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._theirs, self._stderr_writer, self._stderr_reader):
            file.close()
        if not self._is_connected:
            shut(self._ours)
            self._ours.close()


def _early_end_error(id: str, stderr: int) -> RunscError:
    """Return the error for an agent that exited before its first message.

    :param stderr: the read end of the pipe from the agent's standard error.
    """
    output = b""
    with contextlib.suppress(BlockingIOError):
        output = os.read(stderr, _STDERR_MAX)
    text = output.decode(errors="replace").strip()
    return agent_error(id, f"ended at once: {text}" if text else "ended at once")


class _Starter:
    """The ``runsc exec`` process that starts an agent, with its log and its standard error."""

    def __init__(
        self,
        life: AgentContainer,
        id: str,
        popen: Popen[bytes],
        log: int,
        stderr: int,
    ) -> None:
        self._life = life
        self._id = id
        self._popen = popen
        self._log = log
        self._stderr = stderr

    def failure(self, deadline: float) -> RunscError | SandboxEndedError:
        """Return the error for an agent that closed the connection before its first message."""
        with contextlib.suppress(TimeoutExpired):
            self._popen.wait(min(_END_SECONDS, seconds_left(deadline) or 0))
        logged = logs.own_failure(self._log)
        if self._life.ends_within(ENDING_SECONDS):
            return self._life.end_error()
        if logged is None:
            return _early_end_error(self._id, self._stderr)
        if os.path.basename(AGENT_INSIDE) in logged and _FILE_MISSING in logged:
            return RunscError(
                f"the sandbox {self._id} has no {AGENT_INSIDE}, which starts commands inside",
                step="agent",
                cause="sandbox-agent",
                remedy="close the sandbox, and start a new one: an older version of usernsctl may "
                "have started it",
            )
        return RunscError(
            f"the agent of the sandbox {self._id} could not be started: {logs.quote_runsc(logged)}",
            step="agent",
        )


@contextlib.contextmanager
def _starter(
    life: AgentContainer, id: str, theirs: Connection, options: Sequence[str]
) -> Iterator[_Starter]:
    """Start an agent with ``runsc exec``; kill that runsc after the ``with`` body.

    :param theirs: the agent's end of the connection, which becomes the agent's standard input. Once
        runsc has inherited the descriptor, this process closes its copy.
    """
    process = json.dumps(agent_process(life.inherited, AGENT_INSIDE, *options))
    with (
        memory_file("process.json", process.encode()) as file,
        memory_file("errors") as log,
        contextlib.ExitStack() as opened,
    ):
        stderr, stderr_writer = map(opened.enter_context, pipe(os.O_NONBLOCK))
        null = opened.enter_context(open_owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
        log_options = [f"--log=/proc/self/fd/{log.fileno()}", "--log-format=json"]
        process_file = f"--process=/proc/self/fd/{file.fileno()}"
        with (
            life.runsc(*log_options, "exec", process_file, id) as (command, needed),
            raise_if_ended(life, id),
        ):
            fds = [*needed["pass_fds"], file.fileno(), log.fileno()]
            needed = {**needed, "pass_fds": fds}
            popen = Popen[bytes](command, stdin=theirs, stdout=null, stderr=stderr_writer, **needed)
        try:
            # Register the ``runsc exec`` process, so that another thread can reap that process if
            # the thread ends the sandbox meanwhile.
            needed["namespace"].commands.add(popen)
            stderr_writer.close()
            theirs.close()
            yield _Starter(life, id, popen, log.fileno(), stderr.fileno())
        finally:
            popen.kill()
            popen.wait()
