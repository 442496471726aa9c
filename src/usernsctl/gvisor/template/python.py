"""Templates of Python interpreters with imported modules, from which programs are started."""

from __future__ import annotations

import array
import contextlib
import errno
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

from usernsctl import _core
from usernsctl._lean import replace
from usernsctl._system.descriptors import (
    Connection,
    memory_file,
    open_owned,
    pipe,
    seconds_left,
    socket_pair,
    wait_readable,
)
from usernsctl._system.paths import check_path
from usernsctl._text import quoted
from usernsctl.commands.arguments import (
    Args,
    Stream,
    StrOrBytesPath,
    check_keywords,
    check_timeout,
    descriptor_of,
)
from usernsctl.commands.async_start import start_in_executor
from usernsctl.commands.popen import DEVNULL, PIPE, STDOUT, TimeoutExpired
from usernsctl.errors import RunscError, UsernsError
from usernsctl.gvisor import checks
from usernsctl.gvisor.runsc.stdio import Streams, closed_streams
from usernsctl.gvisor.sandbox.host_namespace import HostBase
from usernsctl.gvisor.sandbox.sandbox import Sandbox
from usernsctl.gvisor.template.checkpoint import OutputReader, TemplateSandbox, Wanted, create
from usernsctl.gvisor.template.image import STEP, not_ready, unsavable
from usernsctl.gvisor.template.template import Parts, RestoreOptions, Template, TemplateOptions


class PythonStartOptions(RestoreOptions, total=False):
    """Keyword arguments of :meth:`usernsctl.PythonTemplate.start`."""

    env: Mapping[str, str] | None
    cwd: StrOrBytesPath | None


# The default timeout for starting a program from a template, in seconds.
_START_SECONDS = 60

# The timeout for an interpreter to exit after its connection was closed, in seconds.
_END_SECONDS = 5

# The maximum size of a message from an interpreter, in bytes.
_MESSAGE_MAX = 1 << 18

_TAIL = """
_ours = serve({bigframe!r}, {preload!r}, {code!r})
try:
    _ours.main()
except BaseException as error:
    error.__traceback__ = without(error.__traceback__, globals(), _ours.__dict__)
    raise
"""


class PythonTemplate(Template):
    """A checkpoint of a Python interpreter that has imported modules.

    :meth:`usernsctl.SandboxHost.python_template` creates such a template. Methods that are not
    described here are those of :class:`Template`.
    """

    _kinds = ("python",)

    @classmethod
    def _make_python(
        cls,
        host: HostBase,
        *,
        python: StrOrBytesPath,
        preload: Iterable[str],
        code: str | None,
        **options: Unpack[TemplateOptions],
    ) -> Self:
        """Create a template: see :meth:`usernsctl.SandboxHost.python_template`.

        :raises ValueError: an argument has a wrong value.
        :raises TypeError: an argument has the wrong type.
        """
        given: dict[str, Any] = {"env": None, "cwd": None, "user": None, "timeout": None, **options}
        argv = _interpreter_argv(python, preload, code)
        checks.variables(given["env"])
        checks.directory_inside(given["cwd"])
        check_timeout(given["timeout"])

        ours, theirs = socket_pair()
        with ours, theirs:
            wait = _wait_until_loaded(ours, argv[0])
            wanted = Wanted(kind="python", args=argv, stdin=theirs, wait=wait, **given)
            try:
                made, image = create(host, wanted)
            except TimeoutExpired as expired:
                # Omit the interpreter's arguments, which are the text of interpreter.py.
                raise TimeoutExpired(argv[:1], expired.timeout) from expired.__cause__
        return cls(Parts(host=host, record=made, image=image, config=made.config))

    def start(self, args: Args = (), **options: Unpack[PythonStartOptions]) -> Sandbox:
        """Start a Python program from the checkpoint, and return when the program is about to run.

        The interpreter is PID 1 of the sandbox, and the program runs in a child of the interpreter.

        :param args: the arguments of ``python``: ``["script.py", ...]``, ``["-m", "module", ...]``,
            ``["-c", "source", ...]`` or ``["-"]``. If the first argument has no ``/`` and is not a
            file, it may name a console script in the directory of the interpreter.
        :param options: `env`, environment variables to set in addition to those of the template;
            `cwd`, the working directory, by default that of the template; and `id`, `stdin`,
            `stdout`, `stderr`, `detach`, `in_cgroup`, `timeout` and `ttl`, as for
            :class:`usernsctl.Sandbox`.
        :raises TypeError: an option has the wrong type, or is unknown.
        :raises CommandError: `cwd` is not a directory in the sandbox.
        :raises UsernsError: as :meth:`Template.start` does.
        """
        check_keywords("start", options, _START_KEYWORDS)
        return self._start_program(args, **options).__enter__()

    async def start_async(self, args: Args = (), **options: Unpack[PythonStartOptions]) -> Sandbox:
        """Start a Python program, without blocking the event loop: see :meth:`start`.

        If this call is cancelled, the sandbox is closed.
        """
        return await start_in_executor(lambda: self.start(args, **options), Sandbox.close)

    def _start_program(
        self,
        args: Args,
        *,
        env: Mapping[str, str] | None = None,
        cwd: StrOrBytesPath | None = None,
        stdin: Stream = DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
        timeout: float | None = None,
        detach: bool = False,
        ttl: float | str | None = None,
        idle_timeout: float | str | None = None,
        **options: Any,
    ) -> TemplateSandbox:
        argv, variables = checks.argv(args), checks.variables(env)
        checks.check_streams(stdin, stdout, stderr)
        check_timeout(timeout)
        source = self._source()
        process = source.config["process"]
        known = dict(one.partition("=")[::2] for one in process["env"])
        wanted = {
            "args": argv,
            "env": {**known, **variables},
            "cwd": checks.directory_inside(cwd) or process["cwd"],
        }
        streams = [stdin, stdout, stderr]
        if detach:
            streams = [DEVNULL if one is None else one for one in streams]
        seconds = _START_SECONDS if timeout is None else timeout
        deadline = time.monotonic() + seconds
        closed = closed_streams()

        def connect(box: TemplateSandbox, ours: Connection) -> None:
            try:
                with ours:
                    _hand_over(box, ours, wanted, streams, closed, deadline)
            except TimeoutExpired:
                raise TimeoutExpired(box.args, seconds) from None

        return TemplateSandbox(
            replace(source, args=(source.args[0], *argv)),
            stdout=DEVNULL,
            stderr=DEVNULL,
            timeout=timeout,
            detach=detach,
            connect=connect,
            limits={"ttl": ttl, "idle_timeout": idle_timeout},
            **options,
        )


_START_KEYWORDS = ("args", *PythonStartOptions.__annotations__)


def _interpreter_argv(
    python: StrOrBytesPath, preload: Iterable[str], code: str | None
) -> tuple[str, ...]:
    """Return the command of a template: an interpreter that runs interpreter.py.

    :raises ValueError: an argument has a wrong value.
    :raises TypeError: an argument has the wrong type.
    """
    from importlib import resources

    interpreter = check_path("python", python)
    if interpreter is None:
        raise TypeError("python must be a path, not None")
    if isinstance(preload, str) or not isinstance(preload, Iterable):
        raise TypeError(f"preload must be a list of modules, not {preload!r}")
    names = list(preload)
    for name in names:
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split("."))):
            raise ValueError(f"preload: {name!r} is not the name of a module")
    if code is not None and not isinstance(code, str):
        raise TypeError(f"code must be str, not {code!r}")
    package = resources.files("usernsctl")
    inside = package.joinpath("gvisor/template/interpreter.py").read_text("utf-8")
    bigframe = package.joinpath("bigframe.py").read_text("utf-8")
    return interpreter, "-c", inside + _TAIL.format(bigframe=bigframe, preload=names, code=code)


def _wait_until_loaded(
    ours: Connection, python: str
) -> Callable[[TemplateSandbox, OutputReader, float], list[str]]:
    """Return a function for ``Wanted.wait`` that waits until an interpreter is ready.

    :param ours: the caller's end of the connection to the interpreter.
    :param python: the path of the interpreter, for the remedy.
    """
    call = f"usernsctl run OPTIONS -- {quoted(python)} -c 'import MODULE'"
    remedy = f"{call}    # or CODE, to see why"

    def wait(box: TemplateSandbox, output: OutputReader, deadline: float) -> list[str]:
        hello = _receive_message(ours, deadline)
        if hello is None:
            status = box.wait(_END_SECONDS)
            said = output.last_line()
            why = f"the interpreter has ended with status {status}"
            raise not_ready(f"{why}: {said}" if said else why)
        if "error" in hello:
            raise not_ready(f"preload or code has failed: {hello['error']}", remedy)
        for name, what in (("threads", "threads"), ("sockets", "open sockets")):
            if isinstance(found := hello.get(name), list) and found:
                raise unsavable(f"preload or code has left {what}: {', '.join(map(str, found))}")
        files = hello.get("files")
        return [str(path) for path in files] if isinstance(files, list) else []

    return wait


def _receive_message(ours: Connection, deadline: float) -> dict[str, Any] | None:
    """Receive a JSON message from the interpreter.

    :returns: the message; ``None`` if the interpreter has exited.
    :raises TimeoutExpired: the interpreter sent no message before the deadline.
    :raises RunscError: the message is not a JSON object.
    """
    if not wait_readable(ours.fileno(), timeout=seconds_left(deadline)):
        raise TimeoutExpired((), 0)
    try:
        message = ours.recv(_MESSAGE_MAX)
    except ConnectionError:
        message = b""
    if not message:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(message)
        if isinstance(found, dict):
            return found
    raise RunscError("the interpreter of the template sent an invalid message", step=STEP)


def _hand_over(
    box: TemplateSandbox,
    ours: Connection,
    wanted: Mapping[str, Any],
    streams: Sequence[Any],
    closed: frozenset[int],
    deadline: float,
) -> None:
    """Send the program's arguments, environment and standard streams to the interpreter."""
    with (
        contextlib.ExitStack() as pipes,
        memory_file("program", json.dumps(wanted).encode()) as file,
        Streams(closed) as given,
    ):
        own: dict[str, Any] = {}
        # Close the caller's ends of the pipes if the program is not started.
        pipes.callback(_close_all, own)
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            if name == "stderr" and stream == STDOUT:
                given.fds.append(given.fds[1])
            else:
                _add(given, name, stream, own, pipes)
        file.seek(0)
        fds = array.array("i", [*given.fds, file.fileno()])
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
            ours.sendmsg([b"program"], rights, socket.MSG_NOSIGNAL)
            answer = _receive_message(ours, deadline)
        except (BrokenPipeError, ConnectionError):
            answer = None
        if answer is None:
            raise RunscError(
                "the interpreter of the template has ended before it started the program", step=STEP
            )
        if "errno" in answer:
            raise _no_directory(wanted["cwd"], answer["errno"])
        popen = box.life.popen
        assert popen is not None
        # Store the caller's ends of the pipes in the sandbox's Popen, where Sandbox.communicate()
        # and close() look for them.
        for name, end in own.items():
            setattr(popen, name, end)
        own.clear()


def _close_all(files: Mapping[str, Any]) -> None:
    for file in files.values():
        file.close()


def _add(
    given: Streams, name: str, stream: Any, own: dict[str, Any], pipes: contextlib.ExitStack
) -> None:
    """Add `stream`, a standard stream of the program, to `given`.

    :param own: a dictionary that maps stream names to the caller's ends of pipes. If `stream` is
        PIPE, the caller's end of a new pipe is added.
    :param pipes: the exit stack that closes the program's ends of pipes.
    """
    if isinstance(stream, int) and stream == PIPE:
        ends = pipe()
        theirs, mine = ends if name == "stdin" else reversed(ends)
        pipes.enter_context(theirs)
        own[name] = io.BufferedWriter(mine) if name == "stdin" else io.BufferedReader(mine)
        given.add(theirs.fileno(), is_fresh=True)
    elif isinstance(stream, int) and stream == DEVNULL:
        null = pipes.enter_context(open_owned(os.open, os.devnull, os.O_RDWR | os.O_CLOEXEC))
        given.add(null.fileno(), is_fresh=True)
    elif stream is None:
        given.add(-1, is_fresh=False)
    else:
        given.add(descriptor_of(name, stream), is_fresh=False)


def _no_directory(cwd: str, number: Any) -> UsernsError:
    known = number if isinstance(number, int) and 0 < number < 4096 else errno.EIO
    return _core.command_error("chdir", known, cwd)
