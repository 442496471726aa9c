"""Sandboxes: one command in gVisor, and what is done with it and beside it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from io import FileIO
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self, Unpack, overload

from usernsctl._lean import LateModule
from usernsctl.commands.arguments import Args, Stream, StrOrBytesPath
from usernsctl.commands.keywords import check_keywords, check_timeout, keywords_of
from usernsctl.commands.popen import (
    DEVNULL,
    CompletedProcess,
    Popen,
    TimeoutExpired,
    output_options,
)
from usernsctl.errors import NamespaceError, RunscError, UsernsError
from usernsctl.gvisor import checks
from usernsctl.gvisor.agent.commands import CommandOptions, SandboxCommands
from usernsctl.gvisor.agent.popen import START_SECONDS, SandboxPopen, SandboxProcess
from usernsctl.gvisor.agent.protocol import (
    Agent,
    AgentTimeout,
    AgentUnresponsive,
    agent_error,
    seconds_left,
)
from usernsctl.gvisor.agent.start import OWN_IPC, OWN_NET, InitAgent
from usernsctl.gvisor.launch.request import Request
from usernsctl.gvisor.runsc.container import SandboxEnded, query
from usernsctl.gvisor.runsc.stdio import prepared_streams, receive_terminal
from usernsctl.gvisor.sandbox import records
from usernsctl.gvisor.sandbox.async_start import AsyncStart, AsyncStartMixin
from usernsctl.gvisor.sandbox.attached import AttachedSandbox
from usernsctl.gvisor.sandbox.detached import DetachedSandbox
from usernsctl.gvisor.sandbox.directory import SandboxDirectory
from usernsctl.gvisor.sandbox.host_namespace import (
    HostBase,
    HostNamespace,
    HostOptions,
)
from usernsctl.gvisor.sandbox.records import DetachedRecord

if TYPE_CHECKING:
    from usernsctl.gvisor.agent import options
else:
    options = LateModule("usernsctl.gvisor.agent.options")


class StartOptions(CommandOptions, total=False):
    """Arguments of :class:`usernsctl.Sandbox` that are about one sandbox."""

    id: str | None
    terminal: bool
    detach: bool
    timeout: float | None


class Sandbox(AsyncStartMixin):
    """A command in gVisor, and what else is started beside it.

    It lives until the command ends, it is closed, or the process that made it ends, however that
    ends. Beside runsc's own two processes there is one of ours, of a few hundred KiB: process 1 of
    the PID namespace that all of them are in.

    A detached one lives on when its creator ends, and there is no process but runsc's two. Any
    process of the same user (in the same PID namespace) may :meth:`attach` to it, and do with it
    what its creator can. How it ended is known only to who was waiting then: see :meth:`wait`.

    It is a context manager, also an asynchronous one, that closes the sandbox at its end, detached
    or not; :meth:`release` lets a detached one live.

    Where an event loop of asyncio runs in this thread, another thread starts it, and the loop
    goes on: ``async with`` waits for the end of it, and so does whatever is called before that.
    Only a wrong argument is told at once there.

    :param args: the command and its arguments, or one word as the command; may be left out for
        a bundle, which has its own. ``None``: there is no first command. Process 1 is the agent
        then, which starts what :meth:`run` and :meth:`popen` ask for, and the sandbox lives until
        it is closed or told to end (:meth:`terminate`).
    :param SandboxHost host: where; by default in a host of its own, made of `host_options`, the
        arguments of :class:`SandboxHost`.
    :param str id: what runsc calls it; by default a new one is drawn.
    :param env: what is set beside PATH, LANG and TERM, or beside the bundle's own variables.
    :param cwd: where the command starts, a path inside; by default ``/``, or the bundle's own.
    :param user: uid and gid inside; by default 0 and 0, or the bundle's own.
    :param stdin: as for :class:`subprocess.Popen`, and so `stdout` and `stderr`. A file is
        appended to: gVisor writes at an offset of its own.
    :param bool terminal: whether the command gets a terminal of its own as its standard input,
        output and error; :attr:`terminal` is our end of it.
    :param bool detach: whether it outlives this process. ``None`` is DEVNULL then: whoever
        reads what we write would wait for the sandbox. Our ends of pipes end with this process:
        the command reads the end of its input then, and its writes fail (EPIPE).
    :param in_cgroup: the directory of a control group v2, a path or a descriptor, that all
        processes of the sandbox are started in, as :class:`usernsctl.Popen` has it: its
        ``memory.max`` is a limit for all that is in the sandbox, gVisor's kernel and files that
        it has written included.
    :param float timeout: how long the start may take, in seconds.
    :raises TypeError: an argument is of the wrong type, or unknown.
    :raises ValueError: `host` and `host_options` are both given, `terminal` and streams, or
        there is no command.
    :raises TimeoutExpired: it took more than `timeout` seconds; nothing is left of it.
    :raises RunscError: runsc failed; cause ``"duplicate-id"`` if a sandbox has that id already
        (of this host, or a detached one of this user), which is left alone.
    :raises CommandError: the command can't be started; where it, or `cwd`, does not exist inside
        this is a :class:`FileNotFoundError`, where it may not be executed a
        :class:`PermissionError`, where `cwd` is no directory a :class:`NotADirectoryError`.
    :raises UsernsError: as :class:`SandboxHost` does.
    :ivar id: what runsc calls it.
    :ivar args: the command, empty if it is the bundle's own.
    """

    _own_host: HostNamespace | None = None
    _files: SandboxDirectory | None = None
    _life: AttachedSandbox | DetachedSandbox | None = None
    _terminal: FileIO | None = None
    _is_released = False
    _what = "a sandbox"
    # Whether an agent that is process 1 goes on when its connection has ended.
    _agent_outlives = False
    # Whether an agent is process 1.
    _is_agent_first = False

    def __init__(
        self,
        args: Args | None = (),
        *,
        host: HostBase | None = None,
        id: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: StrOrBytesPath | None = None,
        user: tuple[int, int] | None = None,
        stdin: Stream = DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        terminal: bool = False,
        detach: bool = False,
        in_cgroup: StrOrBytesPath | int | None = None,
        timeout: float | None = None,
        **host_options: Unpack[HostOptions],
    ) -> None:
        """Start a command in a sandbox, and return when it runs: the class has the arguments."""
        words = None if args is None else checks.argv(args)
        if words is None:
            check_no_command(cwd=cwd, user=user, terminal=terminal)
            check_no_command(stdin=stdin, stdout=stdout, stderr=stderr)
        wanted = chosen_id(id)
        request = _host_request(host_options, host)
        check_streams(stdin, stdout, stderr, terminal)
        start = checks.directory_inside(cwd)
        checks.variables(env)
        check_timeout(timeout)
        self._become(wanted, words or ())

        def begin() -> None:
            used = host.prepared if host is not None else HostNamespace(request)
            self._own_host = used if host is None else None
            if words == () and used.request.bundle is None:
                raise ValueError(
                    "args is empty: it must hold a command, or be None where there is to be none"
                )
            outlives = detach or self._agent_outlives
            config = used.config_for(
                words, env=env, cwd=start, user=user, terminal=terminal, outlives=outlives
            )
            self._files = SandboxDirectory(used, self.id, config)
            how = {"in_cgroup": in_cgroup}
            if words is None:
                self._start_agent(used, self._files, how, detach=detach, timeout=timeout)
                return
            if terminal:
                how |= prepared_streams(DEVNULL, DEVNULL, DEVNULL, detach)
            else:
                how |= prepared_streams(stdin, stdout, stderr, detach)
            self._start(used, self._files, how, detach=detach, terminal=terminal, timeout=timeout)

        self._begun = AsyncStart(lambda: self._undone_unless_whole(begin))

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
        with files.listening() if terminal else contextlib.nullcontext() as console:
            if detach:
                self._life = DetachedSandbox.start(host, files, self.id, self.args, how, timeout)
            else:
                self._life = AttachedSandbox(host, files, how, timeout)
            if console is not None:
                self._terminal = receive_terminal(console)

    def _start_agent(
        self,
        host: HostNamespace,
        files: SandboxDirectory,
        how: Mapping[str, Any],
        *,
        detach: bool,
        timeout: float | None,
    ) -> None:
        """Start a sandbox whose process 1 is the agent."""
        deadline = time.monotonic() + (START_SECONDS if timeout is None else timeout)
        with InitAgent(self.id) as first:
            streams = {**how, **first.streams}
            self._start(host, files, streams, detach=detach, terminal=False, timeout=timeout)
            assert self._life is not None
            try:
                self._adopt(first.get(self._life, deadline))
            except AgentTimeout:
                if timeout is not None:
                    raise TimeoutExpired(self.args, timeout) from None
                raise agent_error(self.id, "does not answer", AgentUnresponsive) from None

    def _adopt(self, agent: Agent) -> None:
        """Have other commands started by an agent that is process 1."""
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
        # Commands that outlive this object must not keep it: who forgets it has it closed.
        self._commands = SandboxCommands(id, weakref.WeakMethod(self._get))
        # A handler of signals may close it, too, while this thread does.
        self._closing = threading.RLock()

    @classmethod
    def attach(cls, id: str) -> Self:
        """Find a detached sandbox by its id.

        Its :attr:`stdin`, :attr:`stdout` and :attr:`stderr` are ``None``: they stay its creator's.

        :raises ValueError: this can't be an id.
        :raises RunscError: there is none (cause ``"no-such-sandbox"``), or it has ended; what it
            has left is removed then, and the id is free.
        :raises NamespaceError: the state directory can't be used, or the kernel refused.
        """
        life = DetachedSandbox.attach(checks.sandbox_id(id))
        box = cls.__new__(cls)
        box._become(id, life.record.args)
        box._life = life
        box._begun = AsyncStart(lambda: None)
        return box

    @staticmethod
    def list_detached() -> list[DetachedRecord]:
        """What is known of each detached sandbox of this user; what ended ones left is removed.

        :raises NamespaceError: the state directory can't be used.
        """
        return records.list_detached()

    @property
    def detached(self) -> bool:
        """Whether it outlives its creator."""
        self._begun.settle()
        return isinstance(self._life, DetachedSandbox)

    @property
    def init(self) -> Popen[bytes]:
        """Process 1 of the sandbox's PID namespace, seen from outside; it ends as the sandbox does.

        To kill it is to kill all that is in the sandbox.

        :raises ValueError: the sandbox is detached, and so has none.
        """
        life = self._get()
        if isinstance(life, DetachedSandbox):
            raise ValueError("a detached sandbox has no process of ours")
        return life.popen

    @property
    def stdin(self) -> IO[bytes] | None:
        """Our end of the pipe that was asked for, as :class:`subprocess.Popen` has it."""
        return self._stream("stdin")

    @property
    def stdout(self) -> IO[bytes] | None:
        """See :attr:`stdin`."""
        return self._stream("stdout")

    @property
    def stderr(self) -> IO[bytes] | None:
        """See :attr:`stdin`."""
        return self._stream("stderr")

    @property
    def terminal(self) -> FileIO | None:
        """Our end of the command's terminal, a binary file without a buffer (pty(7)).

        It is closed with this object; a command that reads then sees the end (SIGHUP). To read it
        fails with EIO once nobody inside has the other end. ``None``: none was asked for.
        """
        self._get()
        return self._terminal

    def _stream(self, name: str) -> IO[bytes] | None:
        stream: IO[bytes] | None = getattr(self._get().popen, name, None)
        return stream

    def _get(self) -> AttachedSandbox | DetachedSandbox:
        if self._is_released:
            raise ValueError(f"the sandbox {self.id} was released: attach to it")
        self._begun.get()
        assert self._life is not None
        return self._life

    @property
    def returncode(self) -> int | None:
        """The exit status of the command, 128+N after signal N; ``None``: none was seen yet."""
        return self._get().status

    def poll(self) -> int | None:
        """Look whether the command has ended: :attr:`returncode`.

        :raises RunscError: it has, and the exit status is not known, as :meth:`wait` says.
        """
        return self._get().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command: its :attr:`returncode`.

        For a detached sandbox this takes a process of runsc for as long as it waits, and it is
        runsc that learns the exit status, up to two seconds late. No process does so while nobody
        waits: of a sandbox that ended then, nothing is known but that it has ended. So whoever
        wants to know how it takes a signal waits first, in another thread or task. Of one that
        this object has killed (SIGKILL) the status is known.

        :raises TimeoutExpired: it took more than `timeout` seconds; it goes on.
        :raises RunscError: it is detached, and ended when nobody waited (cause
            ``"exit-status-unknown"``).
        """
        check_timeout(timeout)
        try:
            return self._get().wait(timeout)
        except TimeoutExpired as expired:
            raise TimeoutExpired(self.args, expired.timeout) from None

    async def wait_async(self) -> int:
        """The same from asyncio; to cancel this changes nothing."""
        await self._begun.wait()
        return await self._get().wait_async()

    def communicate(
        self, input: bytes | None = None, timeout: float | None = None
    ) -> tuple[Any, Any]:
        """Write to the command and read what it writes until its end, as with :mod:`subprocess`.

        :param bytes input: what to write, where `stdin` is PIPE.
        :param float timeout: how long this may take, in seconds.
        :returns: what was read of its standard output and error, each ``None`` if that is no pipe
            of ours. :attr:`returncode` is the exit status then, if that is known.
        :raises TimeoutExpired: it took more; the command goes on, and nothing read is lost: this
            may be called again.
        """
        check_timeout(timeout)
        try:
            return self._get().communicate(input, timeout)
        except TimeoutExpired as expired:
            raise TimeoutExpired(
                self.args, expired.timeout, expired.output, expired.stderr
            ) from None

    def send_signal(self, sig: int) -> None:
        """Send a signal to the command. SIGKILL ends all that is in the sandbox, at once.

        :param sig: its number, such as :data:`signal.SIGTERM`; 0 sends none.
        :raises OSError: there is no such signal (EINVAL), as with :mod:`subprocess`. A command that
            has ended gets none, without an error.
        :raises TypeError: `sig` is no whole number.
        :raises RunscError: runsc refused, or did not answer within 60 seconds.
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
        """Send SIGTERM to the command, which may catch it.

        :raises RunscError: as :meth:`send_signal` does.
        """
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL: all that is in the sandbox ends, at once."""
        self.send_signal(signal.SIGKILL)

    def state(self) -> dict[str, Any]:
        """What runsc says of it, as the OCI runtime specification has it ("State").

        :raises RunscError: as :meth:`send_signal` does.
        """
        told = query(self._get(), self.id, "state", self.id)
        return {"id": self.id, "status": "stopped"} if told is None else dict(json.loads(told))

    @overload
    def run(
        self, args: Args, **options: Unpack[options.SandboxRunText]
    ) -> CompletedProcess[str]: ...

    @overload
    def run(
        self, args: Args, **options: Unpack[options.SandboxRunEncoded]
    ) -> CompletedProcess[str]: ...

    @overload
    def run(
        self, args: Args, **options: Unpack[options.SandboxRunBytes]
    ) -> CompletedProcess[bytes]: ...

    @overload
    def run(
        self, args: Args, **options: Unpack[options.SandboxRunEither]
    ) -> CompletedProcess[Any]: ...

    def run(self, args: Args, **options: Any) -> CompletedProcess[Any]:
        """Run another command in the sandbox: :func:`subprocess.run`, and :meth:`popen`.

        :param options: `input`, `capture_output`, `timeout` and `check`, as there, and those of
            :meth:`popen`.
        :raises TimeoutExpired: it took more than `timeout` seconds, the start included. It was
            killed, and so was all that it had started.
        :raises CalledProcessError: `check` was asked for, and its exit status was not 0.
        :raises CommandError: as :meth:`popen` does.
        :raises RunscError: likewise.
        """
        return self._commands.run(args, options)

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputText]) -> str: ...

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputEncoded]) -> str: ...

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputBytes]) -> bytes: ...

    @overload
    def check_output(self, args: Args, **options: Unpack[options.SandboxOutputEither]) -> Any: ...

    def check_output(self, args: Args, **options: Any) -> Any:
        """Run another command in the sandbox and return what it wrote.

        See :func:`usernsctl.check_output`, and :meth:`popen`.
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
        """Start another command in the sandbox, and return when it runs.

        An agent inside starts it, a small program of ours; the first command has runsc start that.
        No thread and no process of this machine is needed for a command, but for those of gVisor.
        The agent, and whatever it has started and still runs, ends with this object, also where the
        sandbox is detached and lives on.

        :param options: of :class:`subprocess.Popen`, and with other meanings: `stdin`, by default
            DEVNULL (``None`` is the caller's own standard input); `env`, what is set beside what
            the sandbox has; `cwd`, a path inside, by default ``/``; `user`, a uid and a gid inside,
            by default 0 and 0; `groups`, a list of gids; `rlimits`, as :class:`SandboxHost` has
            them; `terminal`, whether it gets a terminal of its own, which is read and written by
            its streams: true, or its size in columns and rows. Those about namespaces, and
            `pass_fds`, can't be had.
        :raises TypeError: an option is of the wrong type, or unknown.
        :raises ValueError: an option can't be had, or not with this value.
        :raises CommandError: the command could not be started; where it, or `cwd`, does not exist
            this is a :class:`FileNotFoundError`, where it may not be executed a
            :class:`PermissionError`, where `cwd` is no directory a :class:`NotADirectoryError`. Or
            the sandbox has ended.
        :raises RunscError: the agent is of no use (cause ``"sandbox-agent"``).
        """
        return self._commands.popen(args, options)

    async def create_subprocess_exec(
        self,
        program: StrOrBytesPath,
        *args: StrOrBytesPath,
        **options: Unpack[options.SandboxStreamOptions],
    ) -> SandboxProcess:
        """Start another command in the sandbox from asyncio: see :meth:`popen`.

        If this is cancelled, all of the command is killed.
        """
        await self._begun.wait()
        return await self._commands.create_subprocess_exec(program, args, options)

    def _end_others(self, seconds: float) -> None:
        """End all that was started beside the first command, whoever has started it.

        The agent ends what it has started when it ends itself; a new one is started when it is
        needed. Unless there is a first command, which others may have to reach, the new one is in
        namespaces of its own: IPC objects, and what root has made of the loopback network, belong
        to the namespaces of the agent before. Whoever was able to kill that may have got away. So
        runsc is asked what is left.

        :param seconds: how long that may take.
        :raises RunscError: something is left, or runsc refused to say.
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
            words = ("ps", "--format=json", self.id)
            told = query(life, self.id, *words, seconds=seconds_left(deadline))
            if told is None:
                raise SandboxEnded.of(self.id)
            left = len(json.loads(told) or ()) - 1
            if left <= 0:
                return
            if time.monotonic() >= deadline:
                raise RunscError(
                    f"{left} processes in the sandbox {self.id} outlive the agent", step="agent"
                )

    def close(self) -> None:
        """End the sandbox, if it has not ended, and forget it. Does nothing the second time.

        Any thread may call it at any time, and so may a handler of signals.

        In a fork of the process that has started or found it, this closes descriptors and no more:
        the sandbox is that process's.
        """
        # An interrupt may have come between the start and this object's hearing of it.
        if begun := getattr(self, "_begun", None):
            begun.settle()
        self._finish(end=os.getpid() == self._creator)

    def release(self) -> None:
        """Let a detached sandbox live, and close what this object has of it, pipes included.

        Only :meth:`close` makes sense afterwards, and does nothing.

        :raises ValueError: it is not detached, and so can't live without this process.
        """
        if not self.detached:
            raise ValueError(f"the sandbox {self.id} is not detached, and ends with this process")
        self._finish(end=False)
        self._is_released = True

    def _finish(self, *, end: bool) -> None:
        # Whatever fails, what comes after it is done.
        with self._closing, contextlib.ExitStack() as rest:
            if self._is_released:
                return
            self._is_closed = True
            if self._terminal is not None:
                rest.callback(self._terminal.close)
            if self._own_host is not None:
                rest.callback(self._own_host.close)
            if self._files is not None:
                # Its id is free again from there on.
                is_ours = os.getpid() == self._creator
                rest.callback(self._files.remove if is_ours else self._files.let_go)
            rest.callback(self._commands.close)
            # It is killed, before an agent that is its process 1 sees that nobody is there.
            if self._life is not None:
                self._life.close() if end else self._life.let_go()

    def __repr__(self) -> str:
        life = self._life
        if self._is_released:
            state = "released"
        elif life is None:
            state = "not started"
        else:
            state = "no exit status" if life.status is None else f"exit status {life.status}"
        kind = "detached, " if isinstance(life, DetachedSandbox) else ""
        return f"<Sandbox {self.id!r} {list(self.args)}: {kind}{state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Sandbox can't be copied or pickled: it holds descriptors; where it is detached, "
            "pass its id on, and call Sandbox.attach"
        )

    def _holds(self) -> bool:
        # A start that an interrupt has ended has no such attribute. One that was under way in the
        # parent never comes to its end in a forked child, and close() would wait for it.
        begun = getattr(self, "_begun", None)
        is_settled = begun is None or begun.is_there()
        return isinstance(self._life, AttachedSandbox) and is_settled and not self._is_closed


_KEYWORDS = frozenset((*keywords_of(Sandbox.__init__), *HostOptions.__annotations__))


def _host_request(options: HostOptions, host: HostBase | None) -> Request:
    """What the arguments of a sandbox say that are its host's.

    :raises TypeError: one is unknown, or of the wrong type.
    :raises ValueError: one can't have its value, or there are some, but there is a host, too.
    """
    hint = "; its streams carry bytes, and what is about its namespaces is its host's"
    check_keywords("Sandbox", options, _KEYWORDS, hint)
    if options and host is not None:
        raise ValueError(f"the host decides these already: {', '.join(options)}")
    return Request.for_host(options)


def check_no_command(**options: Any) -> None:
    """Check that nothing is asked for that only a first command could have.

    :raises ValueError: something is.
    """
    for name, given in options.items():
        if given not in (None, False, DEVNULL):
            raise ValueError(f"{name}: without a first command, this is asked for by run and popen")


def chosen_id(id: str | None) -> str:
    """The id of a new sandbox: the one that was asked for, or one that is drawn.

    :raises TypeError: it is no text.
    :raises ValueError: it can't be an id.
    """
    return checks.sandbox_id(id) if id is not None else f"usernsctl-{os.urandom(8).hex()}"


def check_streams(stdin: Stream, stdout: Stream, stderr: Stream, terminal: bool = False) -> None:
    """Check what the streams are to be.

    :raises TypeError: one is no stream.
    :raises ValueError: there is a terminal, too.
    """
    for name, stream in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
        checks.stream(name, stream)
        if terminal and stream not in (None, DEVNULL):
            raise ValueError(f"{name}: with terminal=True, it is the terminal")
