"""Methods that start commands in a running sandbox, by requests to the sandbox's agent."""

from __future__ import annotations

import contextlib
import os
import posixpath
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from weakref import WeakMethod

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import deadline_after, seconds_left
from usernsctl.commands.arguments import (
    Args,
    Stream,
    StrOrBytesPath,
    check_keywords,
    check_timeout,
    keywords_of,
)
from usernsctl.commands.popen import (
    CalledProcessError,
    TimeoutExpired,
    choose_pipes,
    communicate,
)
from usernsctl.errors import RunscError, SandboxEndedError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent import protocol as wire
from usernsctl.gvisor.agent.activity import Activity
from usernsctl.gvisor.agent.popen import (
    START_SECONDS,
    CommandSpec,
    Place,
    SandboxPopen,
)
from usernsctl.gvisor.agent.protocol import (
    Agent,
    AgentTimeout,
    AgentUnresponsive,
    agent_error,
    pause,
    pause_async,
)
from usernsctl.gvisor.agent.start import AgentContainer, start_agent, start_agent_async
from usernsctl.gvisor.launch import options as launch_options
from usernsctl.gvisor.result import Result
from usernsctl.gvisor.runsc.container import ENDING_SECONDS, describe_limit, ended_error

if TYPE_CHECKING:
    from usernsctl.commands import aio
    from usernsctl.gvisor import async_output, output
    from usernsctl.gvisor.agent import process
else:
    aio = LateModule("usernsctl.commands.aio")
    async_output = LateModule("usernsctl.gvisor.async_output")
    output = LateModule("usernsctl.gvisor.output")
    process = LateModule("usernsctl.gvisor.agent.process")


class CommandOptions(TypedDict, total=False):
    """Arguments for the command of a :class:`usernsctl.Sandbox` or :func:`usernsctl.gvisor.run`."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    groups: Iterable[int] | None
    stdin: Stream
    stdout: Stream
    stderr: Stream
    in_cgroup: StrOrBytesPath | int | None


# Options of usernsctl.Popen that are rejected, because they apply only to a child of this process.
# A command in a sandbox is a child of the agent. `user` and `groups` replace the options `group`
# and `extra_groups`.
_REFUSED = (
    *("idmap", "namespace", "mount", "net", "pid", "ipc", "uts", "cgroup", "time", "propagation"),
    *("pass_fds", "in_cgroup", "pdeathsig", "group", "extra_groups"),
)

# All known keyword arguments. The error for an unknown keyword suggests a similar known keyword.
_KEYWORDS = frozenset(
    (
        *keywords_of(subprocess.Popen.__init__),
        *("env", "cwd", "user", "groups", "rlimits", "terminal"),
        *("input", "timeout", "check", "capture_output", "max_output", "on_overflow"),
    )
)

# The rows and columns of a command's terminal if no standard stream of the caller is a terminal
# whose size could be copied.
_SIZE = (24, 80)


class CommandDefaults(NamedTuple):
    """Default options of the commands and the file copies of a sandbox.

    :ivar cwd: the working directory in the sandbox, as an absolute path. Relative paths are
        resolved against `cwd`. ``None`` means the root directory; relative paths are then rejected.
    :ivar user: the uid and the gid in the sandbox; ``None`` means 0 and 0.
    :ivar groups: the supplementary groups of `user`.
    :ivar env: the environment variables that depend on `user`, such as HOME.
    """

    cwd: str | None = None
    user: tuple[int, int] | None = None
    groups: tuple[int, ...] | None = None
    env: Mapping[str, str] | None = None

    def complete(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return `options`, the options of one command, with the defaults for missing options.

        A relative `cwd` is resolved against the default `cwd`. If `options` sets the user, the
        default groups and the default environment variables don't apply.
        """
        completed = dict(options)
        if self.cwd is not None:
            given = options.get("cwd")
            completed["cwd"] = self.cwd if given is None else _absolute(self.cwd, given)
        if self.user is None or options.get("user") is not None:
            return completed
        completed["user"] = self.user
        if options.get("groups") is None:
            completed["groups"] = self.groups
        if self.env:
            completed["env"] = {**self.env, **(options.get("env") or {})}
        return completed


def _absolute(base: str, given: Any) -> Any:
    """Return the path `given`; join a relative path to the directory `base`."""
    try:
        path = os.fsdecode(given)
    except TypeError:
        return given
    return posixpath.join(base, path) if path else given


class _Run(NamedTuple):
    """The checked arguments of :meth:`SandboxCommands.run` or :meth:`SandboxCommands.run_async`.

    :ivar arguments: the arguments that are passed on to SandboxPopen.
    """

    input: Any
    timeout: float | None
    check: bool
    bounds: output.BoundedOutput | None
    spec: CommandSpec
    arguments: dict[str, Any]
    deadline: float | None

    def start(self, args: Args) -> tuple[CommandSpec, Args, float, dict[str, Any]]:
        """Return the arguments for a call of :meth:`SandboxCommands._start` that starts `args`."""
        deadline = time.monotonic() + START_SECONDS
        if self.deadline is not None:
            deadline = min(self.deadline, deadline)
        return self.spec, args, deadline, self.arguments

    def raise_timeout(self, error: AgentUnresponsive | TimeoutExpired, args: Args) -> None:
        """Raise TimeoutExpired in place of `error` if the command's timeout is over.

        :raises TimeoutExpired: the command has exceeded its timeout.
        """
        if isinstance(error, TimeoutExpired):
            raise TimeoutExpired(args, self.timeout or 0, error.output, error.stderr) from None
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimeoutExpired(args, self.timeout or 0) from error


class AgentCache:
    """A cache for a sandbox's agent. The first command starts the agent, and all commands share it.

    If the agent has exited, the next command starts a new agent. The class uses no lock, because a
    forked child would inherit a held lock, and an exception that a signal handler raises could
    leave the lock held.
    """

    def __init__(
        self,
        start: Callable[[float], Agent],
        start_async: Callable[[float], Awaitable[Agent]] | None = None,
    ) -> None:
        """Create a cache without an agent.

        :param start: a function that starts an agent. Its argument is the deadline of the start, as
            a :func:`time.monotonic` time.
        :param start_async: a function like `start` that does not block an event loop.
        """
        self._start = start
        self._start_async = start_async
        self._agent: Agent | None = None
        self._closed = False
        # An entry for each agent that is being started: the pid of this process (since a forked
        # child inherits the set), the thread, and an object that makes the entry unique.
        self._starters: set[tuple[int, int, object]] = set()

    def current(self) -> Agent | None:
        """Return the agent if one is alive, else None."""
        agent = self._agent
        return agent if agent is not None and agent.is_alive() else None

    def get(self, deadline: float) -> Agent:
        """Return the agent; start it if none is alive.

        :raises AgentTimeout: another thread was still starting the agent at the deadline.
        :raises BaseException: the function that starts an agent raised this exception.
        """
        thread = threading.get_ident()
        # Do not wait for an agent that this thread is starting: the start is an asyncio task of the
        # thread, which can't finish while this call blocks the event loop.
        while (agent := self.current()) is None and self._is_being_started(but_by=thread):
            pause(deadline)
        if agent is not None:
            return agent
        with self._starting():
            return self.adopt(self._start(deadline))

    async def get_async(self, deadline: float) -> Agent:
        """Return the agent, without blocking the event loop; start it if none is alive.

        :raises AgentTimeout: another thread or task was still starting the agent at the deadline.
        :raises BaseException: the function that starts an agent raised this exception.
        """
        assert self._start_async is not None
        while (agent := self.current()) is None and self._is_being_started():
            if not seconds_left(deadline):
                raise AgentTimeout
            await pause_async()
        if agent is not None:
            return agent
        with self._starting():
            return self.adopt(await self._start_async(deadline))

    def _is_being_started(self, but_by: int | None = None) -> bool:
        """Return whether a thread of this process other than `but_by` is starting an agent."""
        process = os.getpid()
        return any(one[0] == process and one[1] != but_by for one in self._starters.copy())

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        own = (os.getpid(), threading.get_ident(), object())
        try:
            self._starters.add(own)
            yield
        finally:
            self._starters.discard(own)

    def adopt(self, new: Agent) -> Agent:
        """Store the agent `new` and return it.

        If another agent is alive, close `new` and return the other agent.
        """
        agent = self.current()
        if agent is not None:
            new.close()
            return agent
        before, self._agent = self._agent, new
        if before is not None:
            before.close()
        if self._closed:
            new.close()
        return new

    def close(self) -> None:
        """Close the connection to the agent; the agent then kills the commands that it started.

        Return without waiting for the commands to exit.
        """
        self._closed = True
        agent = self._agent
        if agent is not None:
            agent.close()


class SandboxCommands:
    """The interface to start commands in one sandbox.

    The first command starts the sandbox's agent.
    """

    def __init__(
        self,
        id: str,
        life: WeakMethod[Callable[[], AgentContainer]],
        agent_options: Sequence[str] = (),
    ) -> None:
        """Prepare to start commands in a sandbox.

        :param id: the container id.
        :param life: a weak reference to the method that returns the running sandbox.
        :param agent_options: the command line options of the agent.
        """
        self._id = id
        self._get_life = life
        self._agent_options = agent_options
        self._agents = AgentCache(self._start_agent, self._start_agent_async)
        self._place = Place(
            id,
            self._agents.get,
            self._agents.current,
            self._ended,
            self._limit_error,
            self._kill,
            self.begin,
        )

    def _life(self) -> AgentContainer:
        get = self._get_life()
        if get is None:
            raise ended_error(self._id)
        return get()

    def _start_agent(self, deadline: float) -> Agent:
        return start_agent(self._life(), self._id, deadline, self._agent_options)

    async def _start_agent_async(self, deadline: float) -> Agent:
        return await start_agent_async(self._life(), self._id, deadline, self._agent_options)

    def _ended(self) -> SandboxEndedError | None:
        try:
            life = self._life()
            return life.end_error() if life.ends_within(ENDING_SECONDS) else None
        except SandboxEndedError as error:
            return error
        except ValueError:
            # The Sandbox object was closed or has released the sandbox, so this process can't find
            # out whether the sandbox has ended.
            return None

    def _limit_error(self, is_gone: bool) -> RunscError | None:
        try:
            return self._life().awaited_limit_error(is_gone=is_gone)
        except (SandboxEndedError, ValueError):
            # The sandbox has ended, or the Sandbox object was closed or has released the sandbox,
            # so no error can be read any more.
            return None

    def _kill(self) -> None:
        with contextlib.suppress(SandboxEndedError):
            self._life().kill()

    def begin(self) -> Activity | None:
        """Return an :class:`Activity` for a command; None if the sandbox has no idle timeout."""
        life = self._life()
        if not life.counts_idle:
            return None
        file = life.open_activity()
        return None if file is None else Activity(file)

    def adopt(self, agent: Agent) -> None:
        """Use the running agent `agent` for all later commands: see :meth:`AgentCache.adopt`."""
        self._agents.adopt(agent)

    def popen(self, args: Args, options: Mapping[str, Any]) -> SandboxPopen[Any]:
        """Start a command: see :meth:`usernsctl.Sandbox.popen`."""
        arguments = dict(options)
        spec = self._command_spec("popen", arguments)
        return self._start(spec, args, time.monotonic() + START_SECONDS, arguments)

    def _start(
        self, spec: CommandSpec, args: Args, deadline: float, arguments: dict[str, Any]
    ) -> SandboxPopen[Any]:
        """Check `args`, and start the command.

        The attribute `args` of the returned object is `args` unchanged, as in :mod:`subprocess`.
        """
        argv = list(checks.argv(args))
        started = SandboxPopen[Any](self._place, spec, argv, deadline=deadline, **arguments)
        started.args = args
        return started

    def start_program(
        self, args: Args, options: Mapping[str, Any], deadline: float | None
    ) -> SandboxPopen[Any]:
        """Start a program of usernsctl in the sandbox.

        The program is killed when the returned object is garbage collected.

        :param options: as for :meth:`popen`.
        :param deadline: the deadline of the start, as a :func:`time.monotonic` time, or ``None``.
        :raises AgentUnresponsive: the agent did not answer before the deadline.
        """
        arguments = dict(options)
        spec = self._command_spec("popen", arguments)
        last_start = time.monotonic() + START_SECONDS
        start_deadline = last_start if deadline is None else min(deadline, last_start)
        return self._start(spec, args, start_deadline, {**arguments, "outlives": False})

    def run(self, args: Args, options: Mapping[str, Any]) -> Result[Any]:
        """Run a command until it exits: see :meth:`usernsctl.Sandbox.run`."""
        wanted = self._take_run("run", options)
        try:
            with self._start(*wanted.start(args)) as process:
                process._raises_limit = False
                left = seconds_left(wanted.deadline)
                output = communicate(process, wanted.input, left, wanted.bounds)
            return self._result(process, *output, check=wanted.check, bounds=wanted.bounds)
        except (AgentUnresponsive, TimeoutExpired) as error:
            wanted.raise_timeout(error, args)
            raise

    async def run_async(self, args: Args, options: Mapping[str, Any]) -> Result[Any]:
        """Run a command until it exits, from asyncio: see :meth:`usernsctl.Sandbox.run_async`."""
        wanted = self._take_run("run_async", options)
        bounds = wanted.bounds or output.BoundedOutput.without_limit()
        wanted.arguments["is_awaited"] = False
        try:
            process = await self._request_start(*wanted.start(args))
            process._raises_limit = False
            await process._start_async()
            with process:
                await async_output.communicate(
                    process,
                    output.encoded_input(process, wanted.input),
                    seconds_left(wanted.deadline),
                    bounds,
                    wait=process._wait_async,
                    end=process._end_async,
                )
            kept = bounds.kept(process)
            return self._result(process, *kept, check=wanted.check, bounds=wanted.bounds)
        except (AgentUnresponsive, TimeoutExpired) as error:
            wanted.raise_timeout(error, args)
            raise

    def _take_run(self, function: str, options: Mapping[str, Any]) -> _Run:
        """Check the arguments of :meth:`run` or :meth:`run_async`; return them as a :class:`_Run`.

        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has a wrong value, or is not supported.
        """
        arguments = dict(options)
        timeout = arguments.pop("timeout", None)
        check_timeout(timeout)
        check = arguments.pop("check", False)
        input = arguments.pop("input", None)
        choose_pipes(arguments, input, arguments.pop("capture_output", False))
        bounds = _take_bounds(arguments)
        spec = self._command_spec(function, arguments)
        arguments["outlives"] = False
        return _Run(input, timeout, check, bounds, spec, arguments, deadline_after(timeout))

    def _result(
        self,
        process: SandboxPopen[Any],
        stdout: Any,
        stderr: Any,
        *,
        check: bool,
        bounds: output.BoundedOutput | None,
    ) -> Result[Any]:
        """Return the :class:`Result` of a command that has exited.

        :raises CalledProcessError: `check` is true, and the exit status of the command is not 0.
        :raises SandboxEndedError: `check` is true, and the sandbox has ended before the command
            exited.
        """
        status = process.returncode
        assert status is not None
        result = Result[Any](process.args, status, stdout, stderr)
        result.rusage = process.rusage
        if bounds is not None:
            bounds.describe(result)
        if status == 0:
            return result
        ended = None
        if process._limit_error is not None:
            ended = ended_error(self._id, process._limit_error)
            describe_limit(result, process._limit_error)
        elif result.reason == "output-limit":
            pass
        elif process._is_lost:
            ended = self._ended()
            result.reason = "killed" if ended is None else "sandbox-ended"
        elif status < 0:
            result.reason = "signalled"
        if check:
            raise ended or CalledProcessError(status, process.args, stdout, stderr)
        return result

    async def create_subprocess_exec(
        self, program: StrOrBytesPath, args: Iterable[StrOrBytesPath], options: Mapping[str, Any]
    ) -> process.SandboxProcess:
        """Start a command from asyncio: see :meth:`usernsctl.Sandbox.create_subprocess_exec`."""
        arguments = dict(options)
        limit = aio.take_limit(arguments)
        popen = await self.start_program_async([program, *args], {**arguments, "bufsize": 0})
        return await aio.connected(popen, limit, process.SandboxProcess)

    async def start_program_async(
        self, args: Args, options: Mapping[str, Any]
    ) -> SandboxPopen[Any]:
        """Start a command without blocking the event loop.

        The command is killed when the returned object is garbage collected.

        :param options: as for :meth:`popen`.
        """
        arguments = dict(options)
        deadline = time.monotonic() + START_SECONDS
        spec = self._command_spec("create_subprocess_exec", arguments)
        arguments |= {"is_awaited": False, "outlives": False}
        popen = await self._request_start(spec, args, deadline, arguments)
        await popen._start_async()
        return popen

    async def _request_start(
        self, spec: CommandSpec, args: Args, deadline: float, arguments: dict[str, Any]
    ) -> SandboxPopen[Any]:
        """Ask the agent to start a command, without blocking the event loop.

        If the agent is stopped (SIGSTOP), this call waits for room in the agent's socket.

        :raises AgentUnresponsive: the agent did not receive the message before the deadline.
        """
        while True:
            try:
                agent = await self._agents.get_async(deadline)
                await agent.await_room_async(deadline)
            except AgentTimeout:
                raise agent_error(self._id, "does not answer", AgentUnresponsive) from None
            try:
                return self._start(spec, args, deadline, arguments)
            except AgentUnresponsive:
                # Another thread or task has filled the agent's socket since await_room_async()
                # returned, so wait for room again.
                if not seconds_left(deadline):
                    raise
            await pause_async()

    def close(self) -> None:
        """Stop the agent, and thereby kill the commands that it started; return without waiting."""
        self._agents.close()

    def _command_spec(self, function: str, arguments: dict[str, Any]) -> CommandSpec:
        """Move the options that form a CommandSpec out of `arguments`, and return the CommandSpec.

        :param function: the name of the public method that received `arguments`, for error
            messages.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has a wrong value, or is not supported.
        """
        refused = [name for name in _REFUSED if name in arguments]
        if refused:
            raise ValueError(f"{', '.join(refused)}: not supported for a command in a sandbox")
        variables = checks.variables(arguments.pop("env", None))
        user = arguments.pop("user", None)
        groups = arguments.pop("groups", None)
        given = arguments.pop("rlimits", None)
        limits = launch_options.rlimits("rlimits", given) if given else ()
        terminal = arguments.pop("terminal", False)
        cwd = checks.directory_inside(arguments.pop("cwd", None))
        check_keywords(f"Sandbox.{function}", arguments, _KEYWORDS)
        for name in ("stdin", "stdout", "stderr"):
            checks.stream(name, arguments.get(name))
        inherited = self._life().inherited
        named = {limit[0]: limit for limit in inherited.rlimits}
        named |= {limit.type: (limit.type, limit.soft, limit.hard) for limit in limits}
        return CommandSpec(
            env=wire.environment(inherited.env, variables),
            audited=variables or None,
            cwd=cwd,
            user=None if user is None else checks.user_ids(user),
            groups=None if groups is None else checks.gids(groups),
            rlimits=[wire.rlimit(*limit) for limit in named.values()],
            capabilities=inherited.capability_set,
            size=_size(terminal),
        )


def _take_bounds(arguments: dict[str, Any]) -> output.BoundedOutput | None:
    """Take `max_output` and `on_overflow` out of `arguments`; return the output limit, or None.

    :raises TypeError: the output limit has the wrong type.
    :raises ValueError: the output limit has a wrong value, or no output is captured.
    """
    limit = arguments.pop("max_output", None)
    on_overflow = arguments.pop("on_overflow", "truncate")
    if limit is None and on_overflow == "truncate":
        return None
    streams = arguments.get("stdout"), arguments.get("stderr")
    return output.BoundedOutput(limit, on_overflow, *streams)


def _size(given: Any) -> tuple[int, int] | None:
    """Return the rows and columns of the option `terminal`, or None if it requests no terminal."""
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise ValueError(f"terminal must be true, or columns and rows, not {given!r}")
        return wire.terminal_size(given)
    if not given:
        return None
    for fd in (0, 1, 2):
        try:
            found = os.get_terminal_size(fd)
        except OSError:
            continue
        if found.lines > 0 and found.columns > 0:
            return found.lines, found.columns
    return _SIZE
