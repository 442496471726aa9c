"""Functions that start a command, wait until the command is ready, and save a checkpoint."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from usernsctl import _core
from usernsctl._lean import dataclass
from usernsctl._system.descriptors import (
    Connection,
    memory_file,
    open_owned,
    seconds_left,
    socket_pair,
    wait_readable,
)
from usernsctl.commands.arguments import StrOrBytesPath, check_timeout
from usernsctl.commands.popen import DEVNULL, PIPE, TimeoutExpired
from usernsctl.commands.popen import run as run_command
from usernsctl.errors import (
    CommandError,
    CommandNotADirectoryError,
    CommandNotFoundError,
    RunscError,
    SandboxEndedError,
)
from usernsctl.gvisor import checks, oci
from usernsctl.gvisor.agent import protocol as wire
from usernsctl.gvisor.agent.popen import SandboxPopen
from usernsctl.gvisor.agent.protocol import (
    Agent,
    AgentClosed,
    AgentTimeout,
    AgentUnresponsive,
    receive_hello,
)
from usernsctl.gvisor.launch.steps import AGENT_INSIDE
from usernsctl.gvisor.runsc import logs
from usernsctl.gvisor.runsc.command import PRIVATE_UMASK
from usernsctl.gvisor.runsc.container import ENDING_SECONDS, query, raise_if_ended
from usernsctl.gvisor.runsc.stdio import prepared_streams
from usernsctl.gvisor.sandbox.attached import AttachedSandbox
from usernsctl.gvisor.sandbox.detached import DetachedSandbox
from usernsctl.gvisor.sandbox.directory import SandboxDirectory
from usernsctl.gvisor.sandbox.host_namespace import HostBase, HostNamespace, LimitOptions
from usernsctl.gvisor.sandbox.sandbox import Sandbox, chosen_id
from usernsctl.gvisor.template import record
from usernsctl.gvisor.template.image import Image, not_ready, too_large, unsavable
from usernsctl.gvisor.template.record import TemplateRecord

# The interval between checks whether a command is ready, in seconds.
_NEWS_SECONDS = 0.02

# The number of bytes to keep from the end of each output stream, to search for the line that
# `ready` waits for, and to quote the last line in errors.
_TAIL_BYTES = 1 << 16

# Matches a listening socket in /proc/net/tcp (proc_pid_net(5)), and captures the local port.
_LISTENING = re.compile(rb"^ *\d+: [0-9A-F]+:([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} 0A ", re.MULTILINE)

# The maximum total size of /proc/net/tcp and /proc/net/tcp6, in bytes.
_CONTENT_MAX = 16 << 20

#: The types of the argument `ready`, the condition that a ready command fulfils.
AnyReady: TypeAlias = str | Callable[[Sandbox], object]


@dataclass(frozen=True, slots=True)
class Ready:
    """The condition that a command fulfils once it is ready.

    :ivar kind: ``"line"``, ``"file"``, ``"port"`` or ``"call"``.
    :ivar what: the line, the path, the port, or the function to call, depending on `kind`.
    """

    kind: str
    what: Any

    @classmethod
    def of(cls, given: Any) -> Ready:
        """Parse the argument `ready` of :meth:`usernsctl.SandboxHost.template`.

        :raises TypeError: the argument is neither a string nor callable.
        :raises ValueError: the string is not a valid condition.
        """
        if callable(given):
            return cls("call", given)
        if not isinstance(given, str):
            raise TypeError(f"ready must be text or callable, not {given!r}")
        kind, colon, what = given.partition(":")
        if kind not in ("line", "file", "port") or not colon:
            kind, what = ("file" if given.startswith("/") else "line"), given
        if kind == "port":
            if not re.fullmatch(r"[0-9]{1,5}", what) or not 0 < int(what) < 1 << 16:
                raise ValueError(f"ready: {what!r} is not a port, a number from 1 to 65535")
            return cls(kind, int(what))
        if kind == "file" and not what.startswith("/"):
            raise ValueError(f"ready: {what!r} is not an absolute path")
        if not what or "\n" in what or "\0" in what:
            raise ValueError(f"ready: {what!r} can't be {'a path' if kind == 'file' else 'a line'}")
        return cls(kind, what)

    def wait(self, box: TemplateSandbox, output: OutputReader, deadline: float | None) -> None:
        """Wait until the command is ready.

        :param output: the reader of the command's output.
        :param deadline: the deadline, as a :func:`time.monotonic` time, or ``None``.
        :raises RunscError: the command has exited.
        :raises TimeoutExpired: the command was not ready before the deadline.
        :raises BaseException: `kind` is ``"call"``, and the function `what` raised this exception.
        """
        if self.kind == "call":
            self.what(box)
        else:
            while not self._is_reached(box, output, deadline):
                if deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutExpired(box.args, 0)
                if box.poll() is not None and not self._is_reached(box, output, deadline):
                    raise _ended(box, output, "ready")
                output.news.wait(_NEWS_SECONDS)
        if box.poll() is not None:
            raise _ended(box, output, "saved", _KEEP_RUNNING)

    def _is_reached(
        self, box: TemplateSandbox, output: OutputReader, deadline: float | None
    ) -> bool:
        try:
            if self.kind == "line":
                return output.has_line(os.fsencode(self.what))
            if self.kind == "file":
                return _has_file(box, self.what, deadline)
            return _listens(box, self.what, deadline)
        except CommandError:
            if box.poll() is None:
                raise
            return False


# The remedy for a command that ends after it was ready, and before the checkpoint is complete.
_KEEP_RUNNING = "let CMD run on when it is ready, for example until it reads a line"


def _ended(box: Sandbox, output: OutputReader, goal: str, remedy: str | None = None) -> RunscError:
    """Return the error for a command that ended too early, with its status and last line.

    :param goal: the state that the command did not reach, for the message: ``"ready"`` or
        ``"saved"``.
    :raises RunscError: a limit ended the sandbox, or the exit status is unknown.
    """
    status = box.wait()
    said = output.last_line()
    why = f"the command of the template ended with status {status} before it was {goal}"
    return not_ready(f"{why}: {said}" if said else why, remedy)


def _has_file(box: Sandbox, path: str, deadline: float | None) -> bool:
    """Return whether `path` exists in the sandbox; run no program of the root filesystem."""
    try:
        # Make the agent change to the directory `path`, and execute nothing: execve(2) fails with
        # ENOTDIR, because a slash follows the name of a regular file. Only if chdir(2) fails, the
        # error names `path`: ENOENT if `path` is missing, ENOTDIR if it is not a directory.
        box.run([f"{AGENT_INSIDE}/"], cwd=path, timeout=seconds_left(deadline))
    except (CommandNotFoundError, CommandNotADirectoryError) as error:
        return error.filename != path or isinstance(error, CommandNotADirectoryError)
    return True


def _listens(box: TemplateSandbox, port: int, deadline: float | None) -> bool:
    files = ["/proc/net/tcp", "/proc/net/tcp6"]
    try:
        cat = box.start_program(["cat", *files], deadline)
    except CommandNotFoundError as error:
        raise not_ready(
            "ready can't be a port: the root filesystem has no cat(1) to read /proc/net/tcp",
            "use a line, a file or a function for ready",
        ) from error
    with cat:
        try:
            content = _read(cat, deadline)
        finally:
            cat.kill_tree()
    return any(int(found, 16) == port for found in _LISTENING.findall(content))


def _read(cat: SandboxPopen[bytes], deadline: float | None) -> bytes:
    """Return the output of `cat`, a cat(1) that runs in the sandbox.

    The size of the output and the time are limited, because the sandbox's cat(1) may be a hostile
    program.
    """
    assert cat.stdout is not None
    fd, content = cat.stdout.fileno(), bytearray()
    while wait_readable(fd, timeout=seconds_left(deadline)):
        data = os.read(fd, _TAIL_BYTES)
        if not data:
            return bytes(content)
        content += data
        if len(content) > _CONTENT_MAX:
            raise not_ready(
                "ready can't be a port: cat(1) of the root filesystem writes output without end",
                "use a line, a file or a function for ready",
            )
    raise TimeoutExpired(cat.args, 0)


class OutputReader:
    """A thread that reads the output of a command, so that the command never blocks in write(2).

    :ivar news: an event that is set, and cleared at once, whenever output has been read, to wake
        the threads that wait for the event.
    """

    def __init__(self, box: Sandbox) -> None:
        """Start the thread, which reads the pipes of `box`."""
        self.news: threading.Event = threading.Event()
        self._tails = {"stdout": b"\n", "stderr": b"\n"}
        self._streams = {name: getattr(box, name) for name in self._tails}
        self._stop = open_owned(os.eventfd, 0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._read, name="usernsctl-template")
        self._thread.start()

    def _read(self) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self._stop, selectors.EVENT_READ)
            for name, stream in self._streams.items():
                selector.register(stream, selectors.EVENT_READ, name)
            while len(selector.get_map()) > 1:
                for key, _ in selector.select():
                    if key.data is None:
                        return
                    data = os.read(key.fd, _TAIL_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    self._tails[key.data] = (self._tails[key.data] + data)[-_TAIL_BYTES:]
                    self.news.set()
                    self.news.clear()

    def has_line(self, line: bytes) -> bool:
        """Return whether `line` is in the last `_TAIL_BYTES` of the command's standard output."""
        return b"\n" + line + b"\n" in self._tails["stdout"].replace(b"\r\n", b"\n")

    def last_line(self) -> str:
        """Return the last line of standard error, or, if there is none, of standard output."""
        self._thread.join(_NEWS_SECONDS * 50)
        for name in ("stderr", "stdout"):
            if text := self._tails[name].decode(errors="replace").strip():
                return text.rpartition("\n")[2][-200:]
        return ""

    def close(self) -> None:
        """Stop the thread, and wait until it has exited."""
        os.eventfd_write(self._stop.fileno(), 1)
        self._thread.join()
        self._stop.close()


# The timeout for the agent and its commands to exit, in seconds.
_GONE_SECONDS = 3
# The interval between checks whether the agent has exited, in seconds.
_STATE_SECONDS = 0.01

# The agent's name in the output of ``runsc ps``. A process name has at most 15 bytes
# (PR_SET_NAME(2const)).
_AGENT = os.path.basename(AGENT_INSIDE)[:15]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The host, the config.json and the checkpoint from which a sandbox is started.

    :ivar config: the config.json of the sandbox.
    :ivar image: the path of the checkpoint to restore, in the host's mount namespace; ``None`` to
        start the command.
    """

    host: HostNamespace
    args: tuple[str, ...]
    config: dict[str, Any]
    image: str | None = None


class TemplateSandbox(Sandbox):
    """A sandbox that will be saved in a checkpoint, or that was restored from a checkpoint."""

    def __init__(
        self,
        source: Source,
        *,
        id: str | None = None,
        stdin: Any = DEVNULL,
        stdout: Any = None,
        stderr: Any = None,
        detach: bool = False,
        in_cgroup: StrOrBytesPath | int | None = None,
        timeout: float | None = None,
        limits: LimitOptions | None = None,
        is_agent_first: bool = False,
        connect: Callable[[TemplateSandbox, Connection], None] | None = None,
    ) -> None:
        """Start the sandbox, and return once it runs.

        The arguments that are not listed here are those of :class:`usernsctl.Sandbox`.

        :param limits: the limits of this sandbox. They replace those of its host.
        :param is_agent_first: whether PID 1 of the sandbox is the agent.
        :param connect: a function that is called once the sandbox runs, with this object and the
            caller's end of a connection. The other end becomes the standard input of PID 1, in
            place of `stdin`.
        :raises UsernsError: the sandbox could not be started. Its files have been removed.
        """
        wanted = chosen_id(id)
        checks.check_streams(stdin, stdout, stderr)
        check_timeout(timeout)
        given_limits = {} if limits is None else limits
        self._take_limits(None if is_agent_first else source.args, given_limits)
        self._become(wanted, source.args)

        def begin() -> None:
            files = SandboxDirectory(
                source.host, self.id, oci.serialise(source.config), source.image
            )
            self._files = files
            with contextlib.ExitStack() as undo:
                given = stdin
                if connect is not None:
                    ours, theirs = socket_pair()
                    undo.callback(ours.close)
                    given = undo.enter_context(theirs)
                streams = prepared_streams(given, stdout, stderr, detach)
                how = {**streams, "in_cgroup": in_cgroup}
                self._start(source.host, files, how, detach=detach, terminal=False, timeout=timeout)
                if connect is not None:
                    theirs.close()
                    connect(self, ours)
                undo.pop_all()

        self._undone_unless_whole(begin)

    @property
    def life(self) -> AttachedSandbox | DetachedSandbox:
        """The running sandbox, attached or detached."""
        return self._get()

    def adopt(self, agent: Agent) -> None:
        """Start all later commands through `agent`, which is PID 1 of the sandbox."""
        self._adopt(agent)

    def start_program(self, args: Sequence[str], deadline: float | None) -> SandboxPopen[bytes]:
        """Start a command in the sandbox, with a pipe from its standard output.

        :param deadline: the deadline of the start, as a :func:`time.monotonic` time, or ``None``.
        :raises TimeoutExpired: the agent did not start the command before the deadline.
        :raises UsernsError: as :meth:`usernsctl.Sandbox.popen` does.
        """
        options = self._with_defaults({"stdout": PIPE, "stderr": DEVNULL})
        try:
            return self._commands.start_program(args, options, deadline)
        except AgentUnresponsive:
            if seconds_left(deadline) == 0:
                raise TimeoutExpired(self.args, 0) from None
            raise

    def end_agent(self, deadline: float) -> None:
        """Stop an agent that is not PID 1, and all processes that the agent started.

        These processes have host files open, and runsc can't save a sandbox while a process has
        host files open.

        :param deadline: the deadline, as a :func:`time.monotonic` time.
        :raises TimeoutExpired: the agent did not exit before the deadline.
        :raises RunscError: the agent did not exit within `_GONE_SECONDS`, or runsc did not answer.
        """
        self._commands.close()
        end = time.monotonic() + _GONE_SECONDS
        while any(name == _AGENT for name in self._other_processes(deadline)):
            now = time.monotonic()
            if now > deadline:
                raise TimeoutExpired(self.args, 0)
            if now > end:
                raise unsavable("another command in the sandbox of the template does not end")
            time.sleep(_STATE_SECONDS)

    def _other_processes(self, deadline: float) -> list[str]:
        """Return the names of the processes in the sandbox, except PID 1."""
        argv = ("ps", "--format=table", self.id)
        table = query(self.life, self.id, *argv, seconds=seconds_left(deadline)) or ""
        # Take the name from the last column (CMD), because the other columns differ between
        # releases of runsc.
        head, *lines = [line.split() for line in table.splitlines()] or [["PID"]]
        number = head.index("PID")
        return [line[-1] for line in lines if len(line) > number and line[number] != "1"]


# The part of runsc's error message that means that a process in the sandbox has a host file open.
_FILES_OPEN = "is not savable"

# The part of runsc's error message that means that the sandbox has ended. Without a message, the
# end of the sandbox's PID namespace has killed runsc.
_STOPPED = "in state stopped"

# The timeout for retries while runsc fails with the message _FILES_OPEN, in seconds.
_SAVED_GONE_SECONDS = 3
# The interval between two runs of ``runsc checkpoint`` during these retries, in seconds.
_RETRY_SECONDS = 0.05

# A part of the error message of runsc before release 20260817, which can't save a sandbox that uses
# the network stack of the host's kernel.
_HOST_NETWORK = "not supported when using hostinet"

# The part of runsc's error message that means that writing the image has failed with ENOSPC.
_NO_SPACE = "no space left on device"

#: The default timeout for a command to become ready, in seconds.
READY_SECONDS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A command to start and to save in a checkpoint.

    :ivar kind: one of :data:`usernsctl.gvisor.template.record.KINDS`.
    :ivar stdin: the standard input of the command; ``None`` for a pipe.
    :ivar wait: a function that waits until the command is ready. Its arguments are the sandbox, the
        reader of its output, and a deadline. It returns paths in the sandbox of additional files
        that must be unchanged at a restore.
    """

    kind: str
    args: tuple[str, ...]
    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None
    user: str | tuple[int, int] | None
    timeout: float | None
    stdin: Connection | None = None
    wait: Callable[[TemplateSandbox, OutputReader, float], list[str]]


def for_command(ready: Ready) -> Callable[[TemplateSandbox, OutputReader, float], list[str]]:
    """Return a function for :attr:`Wanted.wait` that waits until a command is ready."""

    def wait(box: TemplateSandbox, output: OutputReader, deadline: float) -> list[str]:
        ready.wait(box, output, deadline)
        return []

    return wait


def for_agent(
    ours: Connection, ready: Ready | None
) -> Callable[[TemplateSandbox, OutputReader, float], list[str]]:
    """Return a function for :attr:`Wanted.wait` that waits until an agent that is PID 1 is ready.

    :param ours: the caller's end of the connection to the agent.
    :param ready: an additional condition, or ``None``.
    """

    def wait(box: TemplateSandbox, output: OutputReader, deadline: float) -> list[str]:
        try:
            pid = receive_hello(ours, deadline)
        except AgentTimeout:
            raise TimeoutExpired(box.args, 0) from None
        except AgentClosed:
            raise not_ready(f"the agent has ended at once: {output.last_line()}") from None
        except wire.ProtocolError as error:
            raise not_ready(f"the agent sent an invalid message: {error}") from None
        agent = Agent(ours, pid)
        box.adopt(agent)
        if ready is not None:
            ready.wait(box, output, deadline)
        return []

    return wait


def create(host: HostBase, wanted: Wanted) -> tuple[TemplateRecord, Image]:
    """Start a command, save a checkpoint once the command is ready, and kill the sandbox.

    :raises TimeoutExpired: the command was not ready before the timeout.
    :raises RunscError: the command exited before it was ready, or can't be saved.
    :raises UsernsError: as :class:`usernsctl.Sandbox` does.
    """
    seconds = READY_SECONDS if wanted.timeout is None else wanted.timeout
    deadline = time.monotonic() + seconds
    prepared = host.prepared
    try:
        config = _config(prepared, wanted)
        source = Source(host=prepared, args=wanted.args, config=config)
        # Use pipes for standard output and error, because all releases of runsc can restore pipes.
        stdin = PIPE if wanted.stdin is None else wanted.stdin.fileno()
        with TemplateSandbox(source, timeout=seconds, stdin=stdin, stdout=PIPE, stderr=PIPE) as box:
            if wanted.stdin is not None:
                wanted.stdin.close()
            output = OutputReader(box)
            try:
                files = wanted.wait(box, output, deadline)
                if wanted.kind != "agent":
                    box.end_agent(deadline)
                image = Image(prepared)
                try:
                    try:
                        _checkpoint(box, image, deadline)
                    except SandboxEndedError as error:
                        raise _ended(box, output, "saved", _KEEP_RUNNING) from error
                    made = _record(prepared, host, wanted, config, files)
                except BaseException:
                    image.close()
                    raise
            finally:
                output.close()
    except TimeoutExpired as expired:
        raise TimeoutExpired(wanted.args, seconds) from expired
    return made, image


def _config(prepared: HostNamespace, wanted: Wanted) -> dict[str, Any]:
    args = None if wanted.kind == "agent" else wanted.args
    cwd = checks.directory_inside(wanted.cwd)
    # Set `outlives`: an agent that is PID 1 gets a new connection at a restore, and must survive
    # the end of the old connection.
    given = prepared.config_for(args, env=wanted.env, cwd=cwd, user=wanted.user, outlives=True)
    found: dict[str, Any] = json.loads(given)
    return found


def _checkpoint(box: TemplateSandbox, image: Image, deadline: float) -> None:
    """Save a sandbox with ``runsc checkpoint``; retry while a process in it has a host file open.

    Retries are necessary because gVisor closes a command's files slightly after the agent has
    reported the command's exit.

    :param deadline: the deadline, as a :func:`time.monotonic` time.
    :raises TimeoutExpired: runsc did not exit before the deadline.
    :raises SandboxEndedError: the sandbox has ended.
    :raises RunscError: the sandbox can't be saved.
    """
    end = time.monotonic() + _SAVED_GONE_SECONDS
    while True:
        status, message = _checkpoint_once(box, image, deadline)
        if status == 0:
            return
        is_end = status == -signal.SIGKILL if message is None else _STOPPED in message
        if is_end and box.life.ends_within(ENDING_SECONDS):
            raise box.life.end_error()
        if message is None or _FILES_OPEN not in message or time.monotonic() > end:
            raise _unsaved(image, message, status)
        image.clear()
        time.sleep(_RETRY_SECONDS)


def _checkpoint_once(box: TemplateSandbox, image: Image, deadline: float) -> tuple[int, str | None]:
    """Run ``runsc checkpoint`` once; return runsc's exit status and error message."""
    with memory_file("errors") as errors:
        log = [f"--log=/proc/self/fd/{errors.fileno()}", "--log-format=json"]
        # Do not compress the image, because a compressed image takes longer to read. Keep the
        # sandbox running (--leave-running): if it ended, the kernel would kill all processes in its
        # PID namespace, including this runsc.
        options = [f"--image-path={image.inside}", "--compression=none", "--leave-running"]
        argv = ["checkpoint", *options, box.id]
        life = box.life
        with life.runsc(*log, *argv) as (command, needed), raise_if_ended(life, box.id):
            fds = [*needed["pass_fds"], errors.fileno()]
            needed = {**needed, "pass_fds": fds, "timeout": seconds_left(deadline)}
            # Set the umask: that of the caller may remove runsc's own permission to read the files
            # of the checkpoint.
            needed["umask"] = PRIVATE_UMASK
            done = run_command(command, **needed, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        return done.returncode, logs.own_failure(errors.fileno())


def _unsaved(image: Image, message: str | None, status: int) -> RunscError:
    """Return the error for a sandbox that runsc could not save, with runsc's message."""
    if message is None:
        why = f"runsc could not save the sandbox, and ended with status {status}"
    else:
        # Quote only the first line of the message: the stack traces of runsc's goroutines follow.
        said = logs.quote_runsc(message.partition("\n")[0])
        why = f"runsc could not save the sandbox: {said}"
    # On a full filesystem, runsc reports ENOSPC only for some of the image's files; for the others,
    # it reports a consequence, such as a nil pointer.
    if image.is_out_of_space() or (message is not None and _NO_SPACE in message):
        return too_large(why)
    if message is not None and _HOST_NETWORK in message:
        return unsavable(why, "use network='none' (--network none), or runsc 20260817 or later")
    return unsavable(why)


def _record(
    prepared: HostNamespace,
    host: HostBase,
    wanted: Wanted,
    config: dict[str, Any],
    files: list[str],
) -> TemplateRecord:
    return TemplateRecord(
        kind=wanted.kind,
        args=wanted.args,
        version=_core.version(),
        runsc=record.runsc_of(prepared),
        flags=record.flags_of(prepared),
        scratch=prepared.prepared.scratch,
        config=config,
        files=record.stamps(prepared, [*record.deciding_files(config), *files]),
        options=record.options_of(host.request),
    )
