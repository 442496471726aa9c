"""The class :class:`Sandbox`: a gVisor kernel that runs a first command and further commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import FileIO
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self, Unpack, overload

from usernsctl import _core
from usernsctl._lean import LateModule
from usernsctl._system.descriptors import seconds_left
from usernsctl.commands.arguments import (
    Args,
    Stream,
    StrOrBytesPath,
    check_keywords,
    check_timeout,
    keywords_of,
)
from usernsctl.commands.async_start import ClosingMixin, start_in_executor
from usernsctl.commands.popen import (
    DEVNULL,
    Popen,
    TimeoutExpired,
    output_options,
)
from usernsctl.errors import NamespaceError, RunscError, UsernsError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.commands import CommandDefaults, CommandOptions, SandboxCommands
from usernsctl.gvisor.agent.popen import START_SECONDS, SandboxPopen
from usernsctl.gvisor.agent.protocol import Agent, AgentTimeout, AgentUnresponsive, agent_error
from usernsctl.gvisor.agent.start import OWN_IPC, OWN_NET, InitAgent
from usernsctl.gvisor.checks import NamedUser
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.result import Result
from usernsctl.gvisor.runsc.container import describe_limit, query
from usernsctl.gvisor.runsc.stdio import prepared_streams, receive_terminal
from usernsctl.gvisor.sandbox import records
from usernsctl.gvisor.sandbox.attached import AttachedSandbox
from usernsctl.gvisor.sandbox.detached import DetachedSandbox
from usernsctl.gvisor.sandbox.directory import SandboxDirectory
from usernsctl.gvisor.sandbox.files import SandboxFiles
from usernsctl.gvisor.sandbox.host_namespace import (
    HostBase,
    HostNamespace,
    HostOptions,
    LimitOptions,
    check_host,
    take_limits,
)
from usernsctl.gvisor.sandbox.interpreter import InterpreterMixin
from usernsctl.gvisor.sandbox.records import DetachedRecord
from usernsctl.gvisor.sandbox.usage import UsageMixin
from usernsctl.network.ports import PublishedPort

if TYPE_CHECKING:
    from usernsctl.gvisor.agent import options, process
    from usernsctl.gvisor.launch import limits as launch_limits
    from usernsctl.gvisor.sandbox import ports as published_ports
    from usernsctl.gvisor.sandbox import users
    from usernsctl.network import refusals
else:
    options = LateModule("usernsctl.gvisor.agent.options")
    process = LateModule("usernsctl.gvisor.agent.process")
    launch_limits = LateModule("usernsctl.gvisor.launch.limits")
    published_ports = LateModule("usernsctl.gvisor.sandbox.ports")
    users = LateModule("usernsctl.gvisor.sandbox.users")
    refusals = LateModule("usernsctl.network.refusals")


class StartOptions(CommandOptions, LimitOptions, total=False):
    """Keyword arguments of :class:`usernsctl.Sandbox`, except those of its host."""

    id: str | None
    hostname: str | None
    terminal: bool
    detach: bool
    publish: Iterable[str | int]
    timeout: float | None


class CreateOptions(StartOptions, HostOptions, total=False):
    """Keyword arguments of :class:`usernsctl.Sandbox`."""

    host: HostBase | None


class Sandbox(SandboxFiles, InterpreterMixin, UsageMixin, ClosingMixin):
    """A sandbox: a gVisor kernel that runs a first command and any number of other commands.

    A sandbox ends when its first command exits, when the sandbox is closed, or when the process
    that created it exits. On the host, it consists of two processes of runsc, and of PID 1 of their
    PID namespace, a program of usernsctl that uses a few hundred KiB of memory.

    A detached sandbox outlives the process that created it. On the host, it consists of the two
    processes of runsc, and of a process of usernsctl that writes the exit status into a file. Any
    process of the same user in the same PID namespace may :meth:`attach` to it.

    A Sandbox is a context manager, also an asynchronous one, that closes the sandbox on exit, even
    a detached sandbox. Call :meth:`release` to keep a detached sandbox running.

    The start takes some tenths of a second, so call :meth:`create_async` in an event loop.

    :param args: the command and its arguments, or a string as a command without arguments. Optional
        for a bundle, whose config.json has a command. With ``None``, the sandbox has no first
        command: PID 1 is the agent, which starts the commands of :meth:`run` and :meth:`popen`, and
        the sandbox ends when it is closed or receives a signal (:meth:`terminate`). `cwd`, `user`
        and `groups` are then defaults for these commands and for the methods that copy files, and
        relative paths are resolved against `cwd`. An object that :meth:`attach` returns does not
        have these defaults.
    :param SandboxHost host: the host in which the sandbox is started; by default a new host with
        `host_options`.
    :param host_options: the arguments of :class:`SandboxHost`, if `host` is not given. With `host`,
        only the limits `memory`, `pids`, `cpus`, `disk`, `ttl` and `idle_timeout`, and `limits`,
        are allowed; they replace those of the host. If the sandbox exceeds a limit, all its
        processes are killed, and :meth:`wait` raises :class:`usernsctl.LimitError` whose cause is
        ``"memory-limit"``, ``"pids-limit"``, ``"timeout"`` (`ttl`) or ``"idle-timeout"``
        (`idle_timeout`). The cause is also the `reason` in the results of the sandbox's commands.
    :param str id: the container id for runsc; by default a random id.
    :param env: environment variables to set in addition to PATH, LANG and TERM, or to the bundle's
        variables.
    :param cwd: the working directory of the command, an absolute path in the sandbox; by default
        ``/``, or the directory that the bundle sets.
    :param user: the user of the command in the sandbox: a uid and a gid, or a text ``"uid"``,
        ``"uid:gid"``, ``"name"`` or ``"name:group"``. Names are looked up in the sandbox's own
        /etc/passwd and /etc/group. A user that is given by name has the supplementary groups of
        /etc/group, unless `user` also names a group. The default is 0 and 0, or the user that the
        bundle sets.
    :param groups: the command's supplementary gids; by default none, or those of a named user.
    :param str hostname: the hostname in the sandbox; by default the hostname that `host` sets.
    :param stdin: the standard input of the command, as for :class:`subprocess.Popen`, but DEVNULL
        by default.
    :param stdout: the standard output, as for :class:`subprocess.Popen`. gVisor appends to a
        regular file, because it does not share the caller's file offset.
    :param stderr: the standard error, as for `stdout`.
    :param bool terminal: whether the command gets a new terminal as standard input, output and
        error; :attr:`terminal` is the caller's end of the terminal.
    :param bool detach: whether the sandbox outlives this process. If so, ``None`` for a stream
        means DEVNULL: a reader of the caller's output would otherwise wait until the sandbox ends.
        When this process exits, the kernel closes its ends of the pipes. The command then reads end
        of file, and its writes fail with EPIPE.
    :param in_cgroup: the directory of a cgroup v2, as a path or a descriptor, in which all
        processes of the sandbox are started, as for :class:`usernsctl.Popen`. ``memory.max`` of the
        cgroup limits the sandbox's memory, including that of gVisor's kernel and of files in
        memory.
    :param publish: ports of the host that are forwarded to ports of the sandbox, with the networks
        ``"none"`` and ``"private"``. Each is a text ``"[ADDR:]HOST:INSIDE[/udp]"`` as for
        ``--publish``; the HOST 0 means any free port. A number INSIDE means that any free TCP port
        of 127.0.0.1 is forwarded to the port INSIDE. :attr:`ports` and :attr:`udp_ports` contain
        the ports that were chosen.
    :param float timeout: the timeout for starting the sandbox, in seconds; ``None`` for no timeout.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: `host` is given together with `host_options`, or `terminal` with a stream;
        or `args` is empty.
    :raises TimeoutExpired: the start took more than `timeout` seconds, and everything it created
        was removed.
    :raises RunscError: runsc failed. The cause is ``"duplicate-id"`` if another sandbox of the
        host, or another detached sandbox of this user, has the same id.
    :raises CommandError: the command could not be started. The error is also a
        :class:`FileNotFoundError` if the command or `cwd` does not exist in the sandbox, a
        :class:`PermissionError` if the command may not be executed, and a
        :class:`NotADirectoryError` if `cwd` is not a directory.
    :raises UsernsError: as :class:`SandboxHost` does.
    :ivar str id: the container id.
    :ivar args: the command and its arguments; empty for the command of the bundle.
    """

    _own_host: HostNamespace | None = None
    _files: SandboxDirectory | None = None
    _life: AttachedSandbox | DetachedSandbox | None = None
    _terminal: FileIO | None = None
    _is_released = False
    _what = "a sandbox"
    # True if an agent that is PID 1 keeps running after the host has closed the connection to the
    # agent.
    _agent_outlives = False
    # True if PID 1 of the sandbox is the agent.
    _is_agent_first = False
    # The ports in the argument `publish`; _start() publishes them.
    _published: tuple[PublishedPort, ...] = ()
    # The limits that replace those of the SandboxHost, and the resulting limits, each with the
    # mechanism that enforces it.
    _own_limits: Mapping[str, Any] | None = None
    _enforced: launch_limits.EnforcedLimits | None = None
    # True if the sandbox has no first command, so that `idle_timeout` applies.
    _counts_idle = False

    def __init__(
        self,
        args: Args | None = (),
        *,
        host: HostBase | None = None,
        id: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: StrOrBytesPath | None = None,
        user: str | tuple[int, int] | None = None,
        groups: Iterable[int] | None = None,
        stdin: Stream = DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        terminal: bool = False,
        detach: bool = False,
        in_cgroup: StrOrBytesPath | int | None = None,
        publish: Iterable[str | int] = (),
        timeout: float | None = None,
        **host_options: Unpack[HostOptions],
    ) -> None:
        """Start a sandbox, and return once its first command runs."""
        argv = None if args is None else checks.argv(args)
        self._take_limits(argv, host_options, has_host=host is not None)
        checks.check_streams(stdin, stdout, stderr, terminal, has_command=argv is not None)
        name = checks.hostname(host_options.pop("hostname", None))
        get_host = _host_of(host_options, host, argv)
        checks.variables(env)
        start = checks.directory_inside(cwd)
        wanted = None if user is None else checks.user_of(user)
        gids = None if groups is None else checks.gids(groups)
        self._published = () if publish == () else published_ports.parse_ports(publish)
        check_timeout(timeout)
        self._become(chosen_id(id), argv or ())

        def begin() -> None:
            used = get_host()
            self._own_host = used if host is None else None
            enforced = self._enforce_limits(used, in_cgroup)
            config = used.config_for(
                argv,
                env=env,
                cwd=start,
                user=None if argv is None else wanted,
                groups=None if argv is None else gids,
                hostname=name,
                terminal=terminal,
                outlives=detach or self._agent_outlives,
                disk=0 if enforced is None else enforced.disk,
            )
            self._files = SandboxDirectory(used, self.id, config)
            if argv is None:
                self._start_agent(used, self._files, in_cgroup, detach=detach, timeout=timeout)
                self._defaults = self._find_defaults(start, wanted, gids)
                return
            streams = (DEVNULL, DEVNULL, DEVNULL) if terminal else (stdin, stdout, stderr)
            how = {"in_cgroup": in_cgroup, **prepared_streams(*streams, detach)}
            self._start(used, self._files, how, detach=detach, terminal=terminal, timeout=timeout)

        self._undone_unless_whole(begin)

    @classmethod
    async def create_async(cls, args: Args | None = (), **options: Unpack[CreateOptions]) -> Self:
        """Start a sandbox without blocking the event loop; return it once its first command runs.

        If this call is cancelled, the sandbox is closed.

        :param args: as for the constructor.
        :param options: as for the constructor.
        :raises UsernsError: as the constructor does.
        :raises TypeError: as the constructor does.
        :raises ValueError: as the constructor does.
        :raises TimeoutExpired: as the constructor does.
        """
        return await start_in_executor(lambda: cls(args, **options), cls.close)

    def _take_limits(
        self, argv: tuple[str, ...] | None, options: LimitOptions, *, has_host: bool = True
    ) -> None:
        """Check the limits in `options`, and remove them from `options` if `has_host` is true.

        :param argv: the first command, or ``None``.
        :param has_host: whether the host exists. If not, the limits in `options` become those of
            the new host.
        :raises TypeError: a limit has the wrong type.
        :raises ValueError: a limit has a wrong value, or `idle_timeout` is set for a sandbox with a
            first command.
        """
        if argv is not None and options.get("idle_timeout") is not None:
            raise ValueError(
                "idle_timeout: the first command runs as long as the sandbox; use ttl, or "
                "start(None)"
            )
        self._own_limits = take_limits(options) if has_host else None
        self._counts_idle = argv is None

    def _enforce_limits(
        self, host: HostNamespace, in_cgroup: StrOrBytesPath | int | None
    ) -> launch_limits.EnforcedLimits | None:
        if self._enforced is None:
            groups = in_cgroup is None
            found = host.enforced_with(self._own_limits, groups=groups)
            if found is not None and not self._counts_idle:
                found = found.without("idle_timeout")
            self._enforced = found
        return self._enforced

    def _start(
        self,
        host: HostNamespace,
        files: SandboxDirectory,
        how: Mapping[str, Any],
        *,
        detach: bool,
        terminal: bool,
        timeout: float | None,
    ) -> None:
        enforced = self._enforce_limits(host, how["in_cgroup"])
        _core.prepare_groups(0 if enforced is None else enforced.groups)
        with (
            files.listening() if terminal else contextlib.nullcontext() as console,
            self._bind_ports(host) as ports,
        ):
            try:
                if detach:
                    self._life = DetachedSandbox.start(
                        host, files, self.id, self.args, how, timeout, enforced, ports
                    )
                else:
                    self._life = AttachedSandbox(host, files, how, timeout, enforced, ports)
            except TimeoutExpired as expired:
                # Report the timeout of the whole start: the exception contains only the time that
                # was left for the last step of the start.
                expired.timeout = timeout or 0
                raise
            if console is not None:
                self._terminal = receive_terminal(console)

    def _bind_ports(
        self, host: HostNamespace
    ) -> contextlib.AbstractContextManager[published_ports.BoundPorts | None]:
        if not self._published:
            return contextlib.nullcontext()
        return published_ports.bind_ports(self._published, host.request.network)

    def _start_agent(
        self,
        host: HostNamespace,
        files: SandboxDirectory,
        in_cgroup: StrOrBytesPath | int | None,
        *,
        detach: bool,
        timeout: float | None,
    ) -> None:
        """Start a sandbox whose PID 1 is the agent."""
        deadline = time.monotonic() + (START_SECONDS if timeout is None else timeout)
        with InitAgent(self.id) as first:
            how = {"in_cgroup": in_cgroup, **first.streams}
            self._start(host, files, how, detach=detach, terminal=False, timeout=timeout)
            assert self._life is not None
            try:
                self._adopt(first.get(self._life, deadline))
            except AgentTimeout:
                if timeout is not None:
                    raise TimeoutExpired(self.args, timeout) from None
                raise agent_error(self.id, "does not answer", AgentUnresponsive) from None

    def _end_by(self, end: records.SandboxEnd) -> None:
        """Kill a sandbox that is not detached, because its lease exceeded a limit."""
        life = self._get()
        assert isinstance(life, AttachedSandbox)
        life.end_by(end)

    def _find_defaults(
        self, cwd: str | None, user: tuple[int, int] | NamedUser | None, groups: list[int] | None
    ) -> CommandDefaults:
        """Return the default options of commands, with ids in place of the user's names.

        :raises CommandError: a name does not exist in the sandbox (cause ``user-unknown``).
        """
        wanted: Mapping[str, Any] = {"user": user, "groups": groups}
        if isinstance(user, NamedUser):
            wanted = users.with_numbers(wanted, self.read_file)
        gids = wanted["groups"]
        return CommandDefaults(
            cwd, wanted["user"], None if gids is None else tuple(gids), wanted.get("env")
        )

    def _adopt(self, agent: Agent) -> None:
        """Start all later commands through `agent`, which is PID 1 of the sandbox."""
        self._is_agent_first = True
        self._commands.adopt(agent)

    def _undone_unless_whole(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except BaseException as error:
            self._finish(end=True)
            if isinstance(error, OSError) and not isinstance(error, UsernsError):
                raise NamespaceError(
                    f"the sandbox could not be started: {error.strerror}",
                    step="sandbox",
                    errno=error.errno or 0,
                    filename=error.filename,
                ) from error
            if isinstance(error, TimeoutExpired):
                raise TimeoutExpired(self.args, error.timeout) from None
            raise

    def _become(self, id: str, args: tuple[str, ...]) -> None:
        self.id = id
        self.args = args
        # Use a weak reference, so that objects of the sandbox's commands do not keep this object
        # alive: the sandbox is closed when this object is garbage collected.
        self._commands = SandboxCommands(id, weakref.WeakMethod(self._get))
        self._closing = threading.RLock()

    @classmethod
    def attach(cls, id: str) -> Self:
        """Return the detached sandbox with the given id.

        :attr:`stdin`, :attr:`stdout` and :attr:`stderr` of the result are ``None``, because only
        the process that created the sandbox has the ends of the pipes.

        :param id: the container id.
        :raises TypeError: `id` is not a str.
        :raises ValueError: `id` is malformed.
        :raises RunscError: no detached sandbox of this user has this id (cause
            ``"no-such-sandbox"``), or the sandbox has ended. The files of a sandbox that has ended
            are removed, so its id can be reused.
        :raises NamespaceError: the state directory can't be used, or a system call failed.
        """
        life = DetachedSandbox.attach(checks.sandbox_id(id))
        box = cls.__new__(cls)
        box._become(id, life.record.args)
        box._life = life
        return box

    @staticmethod
    def list_detached() -> list[DetachedRecord]:
        """Return the records of all detached sandboxes of this user.

        The files of sandboxes that have ended are removed.

        :raises NamespaceError: the state directory can't be used.
        """
        return records.list_detached()

    @property
    def detached(self) -> bool:
        """Return whether the sandbox outlives the process that created it."""
        return isinstance(self._life, DetachedSandbox)

    @property
    def limits(self) -> tuple[launch_limits.LimitPart, ...]:
        """The limits of the sandbox, each with the mechanism that enforces it.

        The tuple is empty if the sandbox has no limits, and for an object that :meth:`attach`
        returned.
        """
        self._get()
        return () if self._enforced is None else self._enforced.parts

    @property
    def ports(self) -> dict[int, tuple[str, int]]:
        """The host's address and port for each published TCP port of the sandbox.

        For a port that is published several times, the first address and port are used.
        """
        published = self._get().ports
        return published_ports.addresses_of(published) if published else {}

    @property
    def udp_ports(self) -> dict[int, tuple[str, int]]:
        """The host's address and port for each published UDP port, as in :attr:`ports`."""
        published = self._get().ports
        return published_ports.addresses_of(published, is_udp=True) if published else {}

    @property
    def denied(self) -> int:
        """The number of connections that the proxy for the option `allow` has denied."""
        proxy = None if self._life is None else self._life.proxy
        return 0 if proxy is None else proxy.denied

    def refusals(self) -> tuple[refusals.Refusal, ...]:
        """Return the connections that the proxy has denied (at most 255), each with a count."""
        proxy = self._get().proxy
        return () if proxy is None else proxy.refusals()

    @property
    def init(self) -> Popen[bytes]:
        """The process of usernsctl-init, a child of this process, which exits with the sandbox.

        SIGTERM to the child kills the whole sandbox. SIGKILL does so only if the child is PID 1 of
        a PID namespace. If parts of /proc are overmounted, as in a container, the child is not
        PID 1.

        :raises ValueError: the sandbox is detached, so this process has no such child.
        """
        life = self._get()
        if isinstance(life, DetachedSandbox):
            raise ValueError(
                "the sandbox is detached: none of its processes is a child of this process"
            )
        return life.popen

    @property
    def stdin(self) -> IO[bytes] | None:
        """The caller's end of the pipe to standard input; ``None`` unless `stdin` was PIPE."""
        return self._stream("stdin")

    @property
    def stdout(self) -> IO[bytes] | None:
        """The caller's end of the pipe from standard output; ``None`` unless `stdout` was PIPE."""
        return self._stream("stdout")

    @property
    def stderr(self) -> IO[bytes] | None:
        """The caller's end of the pipe from standard error; ``None`` unless `stderr` was PIPE."""
        return self._stream("stderr")

    @property
    def terminal(self) -> FileIO | None:
        """The caller's end of the command's terminal, an unbuffered binary file (pty(7)).

        When :meth:`close` closes the file, the command receives SIGHUP. A read fails with EIO once
        no process in the sandbox has the other end open. The attribute is ``None`` unless the
        sandbox was started with ``terminal=True``.
        """
        self._get()
        return self._terminal

    def _stream(self, name: str) -> IO[bytes] | None:
        stream: IO[bytes] | None = getattr(self._get().popen, name, None)
        return stream

    def _get(self) -> AttachedSandbox | DetachedSandbox:
        if self._is_released:
            raise ValueError(f"the sandbox {self.id} was released: call Sandbox.attach first")
        assert self._life is not None
        return self._life

    @property
    def returncode(self) -> int | None:
        """The exit status of the command, or -N if signal N killed it; ``None`` while unknown."""
        return self._get().status

    def poll(self) -> int | None:
        """Check whether the command has exited, and return :attr:`returncode`.

        :raises RunscError: the command has exited with an unknown status: see :meth:`wait`.
        """
        return self._get().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the command to exit, and return its exit status, :attr:`returncode`.

        :param timeout: the time limit, in seconds; ``None`` means no limit.
        :raises TimeoutExpired: the command did not exit in `timeout` seconds, and keeps running.
        :raises RunscError: one of three: the process that watches the sandbox could not wait for
            it, or was killed, and the sandbox is detached (cause ``"exit-status-unknown"``); memory
            ran out, and the kernel killed a process of gVisor (``"out-of-memory"``); or the sandbox
            exceeded a limit (``"memory-limit"``, ``"pids-limit"``, ``"timeout"``,
            ``"idle-timeout"``). In the last two cases, the sandbox was killed, and
            :attr:`returncode` is -9.
        """
        return _unless_limited(self._get(), self._await_end(timeout))

    def _await_end(self, timeout: float | None) -> int:
        check_timeout(timeout)
        try:
            return self._get().wait(timeout)
        except TimeoutExpired as expired:
            raise TimeoutExpired(self.args, expired.timeout) from None

    def result(self, timeout: float | None = None) -> Result[Any]:
        """Wait for the command to exit, and return its exit status and the reason for its exit.

        The result contains no output (see :meth:`communicate`). If a limit killed the sandbox, the
        result's reason is the limit, whereas :meth:`wait` raises an error.

        :param timeout: as for :meth:`wait`.
        :raises TimeoutExpired: as :meth:`wait` does.
        :raises RunscError: as :meth:`wait` does for a detached sandbox.
        """
        return self._result(self._await_end(timeout))

    async def result_async(self) -> Result[Any]:
        """Wait for the command to exit, without blocking the event loop: see :meth:`result`."""
        return self._result(await self._get().wait_async())

    def _result(self, status: int) -> Result[Any]:
        life = self._get()
        result = Result[Any](self.args, status)
        result.rusage = life.rusage
        result.denied = self.denied
        if (error := life.limit_error()) is not None:
            describe_limit(result, error)
        elif life.is_killed:
            result.reason = "killed"
        elif status < 0:
            result.reason = "signalled"
        return result

    async def wait_async(self) -> int:
        """Wait for the command to exit, without blocking the event loop; return its exit status.

        See :meth:`wait`. The cancellation of the call does not affect the command.
        """
        life = self._get()
        return _unless_limited(life, await life.wait_async())

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[Any, Any]:
        """Write to the command's standard input, and read its output, until the command exits.

        See :meth:`subprocess.Popen.communicate`. After the call, :attr:`returncode` is set if the
        exit status is known.

        :param bytes input: the data for standard input, if `stdin` is PIPE.
        :param float timeout: the time limit, in seconds; ``None`` means no limit.
        :returns: the standard output and the standard error, as bytes, or ``None`` for a stream
            that is not a pipe.
        :raises TimeoutExpired: the command did not exit within `timeout` seconds. The command keeps
            running, and the next call returns all its output.
        """
        check_timeout(timeout)
        try:
            return self._get().communicate(input, timeout)
        except TimeoutExpired as expired:
            raise TimeoutExpired(
                self.args, expired.timeout, expired.output, expired.stderr
            ) from None

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command, unless it has exited. SIGKILL kills the whole sandbox.

        A signal handler may call this method.

        :param sig: the number of the signal, such as :data:`signal.SIGTERM`; 0 sends no signal
            (kill(2)).
        :raises OSError: no signal has that number (EINVAL).
        :raises TypeError: `sig` is not an int.
        :raises RunscError: runsc failed, or did not answer within 60 seconds.
        """
        life = self._get()
        if life.has_ended():
            return
        number = checks.signal_number(sig)
        if number == signal.SIGKILL:
            life.kill()
        elif number:
            query(life, self.id, "kill", self.id, str(number))

    def terminate(self) -> None:
        """Send SIGTERM to the command.

        :raises RunscError: as :meth:`send_signal` does.
        """
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all processes in the sandbox (SIGKILL)."""
        self.send_signal(signal.SIGKILL)

    def state(self) -> dict[str, Any]:
        """Return the state of the container, as in the OCI runtime specification ("State").

        :raises RunscError: as :meth:`send_signal` does.
        """
        state = query(self._get(), self.id, "state", self.id)
        return {"id": self.id, "status": "stopped"} if state is None else dict(json.loads(state))

    @overload
    def run(self, args: Args, **options: Unpack[options.SandboxRunText]) -> Result[str]: ...

    @overload
    def run(self, args: Args, **options: Unpack[options.SandboxRunEncoded]) -> Result[str]: ...

    @overload
    def run(self, args: Args, **options: Unpack[options.SandboxRunBytes]) -> Result[bytes]: ...

    @overload
    def run(self, args: Args, **options: Unpack[options.SandboxRunEither]) -> Result[Any]: ...

    def run(self, args: Args, **options: Any) -> Result[Any]:
        """Run another command in the sandbox and wait for it, as :func:`subprocess.run` does.

        :param args: the command and its arguments, or a string as a command without arguments.
        :param options: `input`, `capture_output`, `timeout` (in seconds) and `check`, as for
            :func:`subprocess.run`; `max_output` and `on_overflow`, as for
            :func:`usernsctl.gvisor.run`; and the options of :meth:`popen`.
        :returns: the exit status of the command, or -N if signal N killed it, its output, and the
            reason for its exit. The output is text if `text`, `encoding`, `errors` or
            `universal_newlines` is given, else bytes.
        :raises TimeoutExpired: the command took more than `timeout` seconds, its start included.
            The command was killed, with all processes that it had started.
        :raises CalledProcessError: `check` is true, and the exit status of the command is not 0.
        :raises SandboxEndedError: the sandbox ended before the command was started, or, if `check`
            is true, before it exited.
        :raises TypeError: an option has the wrong type, or is unknown.
        :raises ValueError: an option has a wrong value, or is not supported.
        :raises CommandError: as :meth:`popen` does.
        :raises RunscError: as :meth:`popen` does.
        """
        before = self.denied
        result = self._commands.run(args, self._with_defaults(options))
        if (denied := self.denied - before) > 0:
            result.denied = denied
        return result

    @overload
    async def run_async(
        self, args: Args, **options: Unpack[options.SandboxRunText]
    ) -> Result[str]: ...

    @overload
    async def run_async(
        self, args: Args, **options: Unpack[options.SandboxRunEncoded]
    ) -> Result[str]: ...

    @overload
    async def run_async(
        self, args: Args, **options: Unpack[options.SandboxRunBytes]
    ) -> Result[bytes]: ...

    @overload
    async def run_async(
        self, args: Args, **options: Unpack[options.SandboxRunEither]
    ) -> Result[Any]: ...

    async def run_async(self, args: Args, **options: Any) -> Result[Any]:
        """Run another command in the sandbox, without blocking the event loop: see :meth:`run`.

        If this call is cancelled, the command and all processes that it started are killed.
        """
        before = self.denied
        numbered = await self._with_defaults_async(options)
        result = await self._commands.run_async(args, numbered)
        if (denied := self.denied - before) > 0:
            result.denied = denied
        return result

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputText]) -> str: ...

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputEncoded]) -> str: ...

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputBytes]) -> bytes: ...

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputEither]) -> Any: ...

    def check_output(self, args: Args, **options: Any) -> Any:
        """Run another command in the sandbox and return its standard output.

        :param args: the command and its arguments, or a string as a command without arguments.
        :param options: the options of :meth:`run`, except `stdout`, `capture_output` and `check`.
        :returns: text if `text`, `encoding`, `errors` or `universal_newlines` is given, else bytes.
        :raises CalledProcessError: the exit status of the command is not 0.
        :raises TimeoutExpired: as :meth:`run` does.
        :raises CommandError: as :meth:`popen` does.
        :raises RunscError: as :meth:`popen` does.
        """
        return self.run(args, **output_options(options)).stdout

    @overload
    def popen(
        self, args: Args, **options: Unpack[options.SandboxPopenText]
    ) -> SandboxPopen[str]: ...

    @overload
    def popen(
        self, args: Args, **options: Unpack[options.SandboxPopenEncoded]
    ) -> SandboxPopen[str]: ...

    @overload
    def popen(
        self, args: Args, **options: Unpack[options.SandboxPopenBytes]
    ) -> SandboxPopen[bytes]: ...

    @overload
    def popen(
        self, args: Args, **options: Unpack[options.SandboxPopenEither]
    ) -> SandboxPopen[Any]: ...

    def popen(self, args: Args, **options: Any) -> SandboxPopen[Any]:
        """Start another command in the sandbox, and return once it runs.

        The agent, a small program of usernsctl in the sandbox, starts the command. The first call
        starts the agent, by runsc. A command needs neither a thread in this process nor a process
        outside the sandbox. All commands that the agent started are killed when this object is
        closed or released, even if the sandbox is detached and keeps running.

        :param args: the command and its arguments, or a string as a command without arguments.
        :param options: the options of :class:`subprocess.Popen`, with these differences: `stdin` is
            DEVNULL by default, and ``None`` for the caller's standard input. `env` contains
            variables to set in addition to those of the sandbox. `cwd` is a path in the sandbox, by
            default ``/``. `user` is a uid and a gid in the sandbox, by default 0 and 0, or a text
            as for :class:`Sandbox`: names are looked up in the current /etc/passwd and /etc/group.
            There are three more options: `groups` is a list of gids. `rlimits` is as for
            :class:`SandboxHost`. `terminal` is true for a new terminal as the standard streams, or
            the columns and rows of that terminal. `pass_fds` and the options for namespaces are not
            supported.
        :raises TypeError: an option has the wrong type, or is unknown.
        :raises ValueError: an option has a wrong value, or is not supported.
        :raises CommandError: the command could not be started, or the sandbox has ended. The error
            is also a :class:`FileNotFoundError` if the command or `cwd` does not exist in the
            sandbox, a :class:`PermissionError` if the command may not be executed, and a
            :class:`NotADirectoryError` if `cwd` is not a directory.
        :raises RunscError: the agent failed (cause ``"sandbox-agent"``).
        """
        return self._commands.popen(args, self._with_defaults(options))

    async def create_subprocess_exec(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        **options: Unpack[options.SandboxStreamOptions],
    ) -> process.SandboxProcess:
        """Start another command in the sandbox, without blocking the event loop.

        If this call is cancelled, the command and all processes that it started are killed.

        :param program: the command.
        :param args: the arguments of the command.
        :param options: the options of :meth:`popen` without those for text, which are not
            supported; and `limit`, the size of the streams' buffers in bytes.
        :raises TypeError: as :meth:`popen` does.
        :raises ValueError: an option for text is given, although the streams carry bytes; or as
            :meth:`popen` does.
        :raises CommandError: as :meth:`popen` does.
        :raises RunscError: as :meth:`popen` does.
        """
        return await self._commands.create_subprocess_exec(
            program, args, await self._with_defaults_async(options)
        )

    async def _with_defaults_async(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what :meth:`_with_defaults` returns, without blocking the event loop."""
        options = self._defaults.complete(options)
        if not isinstance(options.get("user"), str):
            return options
        return await users.with_numbers_async(options, self.read_file_async)

    def _with_defaults(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the defaults to the options of a command; replace the names in `user` by ids."""
        options = self._defaults.complete(options)
        if not isinstance(options.get("user"), str):
            return options
        return users.with_numbers(options, self.read_file)

    def _end_others(self, seconds: float) -> None:
        """Kill all processes of the sandbox except the first command.

        The agent kills its commands and exits; the next command starts a new agent. In a sandbox
        without a first command, the new agent creates new namespaces, so that it does not share IPC
        objects, and root's changes to the loopback network, with the old agent.

        Then runsc lists the remaining processes, which may have killed the old agent.

        :param seconds: the timeout, in seconds.
        :raises RunscError: a process has survived, or runsc failed.
        :raises CommandError: the sandbox has ended.
        """
        self._commands.close()
        life = self._get()
        options = [OWN_IPC] if self._is_agent_first else []
        if self._is_agent_first and isinstance(life, AttachedSandbox) and life.network == "none":
            options.append(OWN_NET)
        self._commands = SandboxCommands(self.id, weakref.WeakMethod(self._get), options)
        deadline = time.monotonic() + seconds
        while True:
            argv = ("ps", "--format=json", self.id)
            listed = query(life, self.id, *argv, seconds=seconds_left(deadline))
            if listed is None:
                raise life.end_error()
            left = len(json.loads(listed) or ()) - 1
            if left <= 0:
                return
            if time.monotonic() >= deadline:
                raise RunscError(
                    f"{left} processes in the sandbox {self.id} outlive the agent", step="agent"
                )

    def close(self) -> None:
        """Kill the sandbox if it runs, and remove its files. Repeated calls do nothing.

        Any thread may call this method at any time. In a forked child of the process that created
        or attached to the sandbox, the method only closes descriptors.
        """
        self._finish(end=os.getpid() == self._creator)

    def release(self) -> None:
        """Close the descriptors and pipes of a detached sandbox. The sandbox keeps running.

        After this call, :meth:`close` does nothing, and other methods raise :class:`ValueError`.

        :raises ValueError: the sandbox is not detached.
        """
        if not self.detached:
            raise ValueError(f"the sandbox {self.id} is not detached, and ends with this process")
        self._finish(end=False)
        self._is_released = True

    def _finish(self, *, end: bool) -> None:
        # Use an exit stack, because it calls all callbacks even if one raises an exception.
        with self._closing, contextlib.ExitStack() as rest:
            if self._is_released:
                return
            self._is_closed = True
            if self._terminal is not None:
                rest.callback(self._terminal.close)
            if self._own_host is not None:
                rest.callback(self._own_host.close)
            if self._files is not None:
                # Remove the files after the kill, because their removal frees the sandbox's id.
                is_ours = os.getpid() == self._creator
                rest.callback(self._files.remove if is_ours else self._files.release)
            rest.callback(self._commands.close)
            # Kill the sandbox before the connection to the agent is closed: an agent that is PID 1
            # would otherwise exit first, and its exit status would become that of the sandbox.
            if self._life is not None:
                self._life.close() if end else self._life.release()

    def __repr__(self) -> str:
        life = self._life
        if self._is_released:
            state = "released"
        elif life is None:
            state = "not started"
        else:
            state = _ending(life.status)
        kind = "detached, " if isinstance(life, DetachedSandbox) else ""
        return f"<Sandbox {self.id!r} {list(self.args)}: {kind}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Sandbox can't be copied or pickled; "
            "pass the id of a detached sandbox to Sandbox.attach"
        )

    def _holds(self) -> bool:
        return isinstance(self._life, AttachedSandbox) and not self._is_closed


_KEYWORDS = frozenset((*keywords_of(Sandbox.__init__), *HostOptions.__annotations__))


def _ending(status: int | None) -> str:
    """Describe the return code `status` in words, for __repr__()."""
    if status is None:
        return "no exit status"
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"


def _unless_limited(life: AttachedSandbox | DetachedSandbox, status: int) -> int:
    """Return `status`, the exit status of a sandbox, unless the sandbox exceeded a limit.

    :raises LimitError: the sandbox was killed because it exceeded a limit, or memory ran out.
    """
    if (error := life.limit_error()) is not None:
        raise error
    return status


def _host_of(
    options: HostOptions, host: HostBase | None, argv: Sequence[str] | None
) -> Callable[[], HostNamespace]:
    """Return a function that returns the HostNamespace of `host`, or of a new host with `options`.

    :param argv: the command of the sandbox; empty for the command in the host's bundle.
    :raises TypeError: an option is unknown, or has the wrong type.
    :raises ValueError: an option has a wrong value, `options` and `host` are both given, or the
        command is missing.
    """
    hint = "; SandboxHost() takes the options about namespaces, and the streams carry bytes"
    check_keywords("Sandbox", options, _KEYWORDS, hint)
    if host is not None and options:
        raise ValueError(f"{', '.join(options)}: pass to SandboxHost(), not to its sandboxes")
    request = Request.for_host(options) if host is None else check_host(host).request
    if argv == () and request.bundle is None:
        raise ValueError("args is empty: args must contain a command, or be None")
    return lambda: HostNamespace(request) if host is None else host.prepared


def chosen_id(id: str | None) -> str:
    """Return `id`, or a random id for a new sandbox if `id` is None.

    :raises TypeError: `id` is not a str.
    :raises ValueError: `id` is malformed.
    """
    return checks.sandbox_id(id) if id is not None else f"usernsctl-{os.urandom(8).hex()}"
