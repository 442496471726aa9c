"""Where sandboxes run, and how they are started there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Unpack, overload

from usernsctl.commands.arguments import Args, StrOrBytesPath
from usernsctl.commands.keywords import check_keywords, check_timeout, keywords_of
from usernsctl.commands.popen import (
    DEVNULL,
    PIPE,
    CalledProcessError,
    CompletedProcess,
    TimeoutExpired,
)
from usernsctl.gvisor.agent.commands import CommandOptions
from usernsctl.gvisor.pool.pool import PoolOptions, SandboxPool
from usernsctl.gvisor.sandbox.async_start import start_in_executor
from usernsctl.gvisor.sandbox.host_namespace import HostBase, HostOptions
from usernsctl.gvisor.sandbox.sandbox import Sandbox, StartOptions
from usernsctl.gvisor.template.checkpoint import AnyReady
from usernsctl.gvisor.template.python import PythonTemplate
from usernsctl.gvisor.template.template import Template, TemplateOptions


class SandboxOptions(CommandOptions, HostOptions, total=False):
    """Arguments of :func:`usernsctl.gvisor.run` that are a sandbox's or its host's."""


class RunOptions(SandboxOptions, total=False):
    """Arguments of :func:`usernsctl.gvisor.run` that do not decide whether its streams are text."""

    capture_output: bool
    timeout: float | None
    check: bool
    host: HostBase | None


class SandboxHost(HostBase):
    """A kept namespace that sandboxes are started in, from any thread or from asyncio.

    To make one takes a few tenths of a second: the id map is written, and a root filesystem is
    built. Each sandbox then costs what runsc costs. All files lie in mounts inside, and are gone
    when the host is closed and its last sandbox has ended. Nothing runs in it but its sandboxes.

    It is a context manager, also an asynchronous one, that closes it at its end.
    """

    def start(self, args: Args | None = (), **options: Unpack[StartOptions]) -> Sandbox:
        """Start a command in a sandbox of its own, and return when it runs.

        :class:`Sandbox` has the arguments. An event loop stands still for it, some tenths of a
        second: :meth:`start_async` is for those.

        :raises ValueError: the host is closed.
        :raises TimeoutExpired: it took more than `timeout` seconds.
        :raises UsernsError: as :class:`Sandbox` does.
        """
        return Sandbox(args, host=self, **options).__enter__()

    async def start_async(self, args: Args | None = (), **options: Unpack[StartOptions]) -> Sandbox:
        """The same from asyncio; if this is cancelled, the sandbox is closed."""
        return await start_in_executor(lambda: self.start(args, **options), Sandbox.close)

    def template(
        self,
        args: Args | None = None,
        *,
        ready: AnyReady | None = None,
        **options: Unpack[TemplateOptions],
    ) -> Template:
        """Start a command, save it once it is ready, and end it: it can be started from there.

        :param args: the command and its arguments, or one word as the command. ``None``: there is
            no first command, only usernsctl's agent, which waits to start others, as fast as any
            sandbox has its second started.
        :param ready: when it is: once it has written a line to its standard output
            (``"line:TEXT"``, or a text that is nothing else), there is a file inside
            (``"file:PATH"``, or a text that begins with ``/``), or something inside listens on a
            TCP port (``"port:N"``). Or what is called with the sandbox, and returns when it is; the
            agent may be without.
        :param options: `env`, `cwd` and `user`, as for :class:`Sandbox`; `timeout`, how long all
            this may take, in seconds: 300 unless given.
        :raises ValueError: an argument can't have this value, or the host is closed.
        :raises TypeError: an argument is of the wrong type.
        :raises TimeoutExpired: it took more than `timeout` seconds; nothing is left of it.
        :raises RunscError: the command ended before (cause ``"template-not-ready"``), or can't be
            saved (``"template-unsavable"``).
        :raises UsernsError: as :class:`Sandbox` does.
        """
        check_keywords("template", options, _TEMPLATE_KEYWORDS)
        return Template._make(self, args, ready=ready, **options)

    def python_template(
        self,
        *,
        python: StrOrBytesPath = "python3",
        preload: Iterable[str] = (),
        code: str | None = None,
        **options: Unpack[TemplateOptions],
    ) -> PythonTemplate:
        """Start a Python interpreter, and save it once it has imported what is wanted.

        :param python: the interpreter: its path inside, or its name.
        :param preload: the names of modules to be imported.
        :param code: source text to be run then.
        :param options: as for :meth:`template`.
        :raises ValueError: an argument can't have this value, or the host is closed.
        :raises TypeError: an argument is of the wrong type.
        :raises TimeoutExpired: it took more than `timeout` seconds; nothing is left of it.
        :raises RunscError: it failed (cause ``"template-not-ready"``), or has left threads or open
            sockets (``"template-unsavable"``).
        :raises UsernsError: as :class:`Sandbox` does.
        """
        check_keywords("python_template", options, _PYTHON_KEYWORDS)
        return PythonTemplate._make_python(
            self, python=python, preload=preload, code=code, **options
        )

    def pool(self, size: int, **options: Unpack[PoolOptions]) -> SandboxPool:
        """Have sandboxes wait until somebody wants one: :meth:`usernsctl.SandboxPool.acquire`.

        :class:`SandboxPool` has the arguments. This returns at once: threads of the pool make them.

        :raises TypeError: an argument is of the wrong type, or unknown.
        :raises ValueError: one can't have its value.
        """
        check_keywords("pool", options, PoolOptions.__annotations__)
        return SandboxPool(self, size, **options)


_TEMPLATE_KEYWORDS = (*keywords_of(SandboxHost.template), *TemplateOptions.__annotations__)
_PYTHON_KEYWORDS = (*keywords_of(SandboxHost.python_template), *TemplateOptions.__annotations__)


@overload
def run(
    args: Args = (),
    *,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedProcess[str]: ...


@overload
def run(
    args: Args = (),
    *,
    text: Literal[True] | None = None,
    encoding: str,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> CompletedProcess[str]: ...


@overload
def run(
    args: Args = (),
    *,
    text: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: bytes | None = None,
    **options: Unpack[RunOptions],
) -> CompletedProcess[bytes]: ...


@overload
def run(
    args: Args = (),
    *,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    input: Any = None,
    **options: Unpack[RunOptions],
) -> CompletedProcess[Any]: ...


def run(
    args: Args = (),
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    host: HostBase | None = None,
    **options: Unpack[SandboxOptions],
) -> CompletedProcess[Any]:
    """Run a command in gVisor and wait for it, as :func:`subprocess.run` does.

    This process goes on, unlike that of ``usernsctl run``. Nothing is left of the sandbox.

    :param args: the command and its arguments, or one word as the command; may be left out for a
        bundle, which has its own.
    :param input: what the command reads, bytes, or str with `text`.
    :param bool capture_output: whether its standard output and error are read.
    :param float timeout: how long all this may take, the start included, in seconds.
    :param bool check: whether an exit status other than 0 is an error.
    :param bool text: whether what is written and read is text: UTF-8, or what `encoding` and
        `errors` say.
    :param SandboxHost host: where; by default in a host of its own. Who runs many commands keeps
        one.
    :param options: `env`, `cwd`, `user`, `stdin`, `stdout`, `stderr` and `in_cgroup`, as for
        :class:`usernsctl.Sandbox`; without `host`, also the arguments of
        :class:`usernsctl.SandboxHost`.
    :returns: with the exit status of the command, 128+N after signal N.
    :raises TimeoutExpired: it took more than `timeout` seconds, and was ended.
    :raises CalledProcessError: `check` was asked for, and its exit status was not 0.
    :raises TypeError: an argument is of the wrong type, or unknown.
    :raises ValueError: `input` and `stdin`, or `capture_output` and `stdout` or `stderr`, are both
        given; and as :class:`usernsctl.Sandbox` does.
    :raises UsernsError: as :class:`usernsctl.Sandbox` does.
    """
    check_timeout(timeout)
    _check_run(args, options)
    _choose_streams(options, input, capture_output)
    is_text = bool(text or encoding or errors)
    coding = (encoding or "utf-8", errors or "strict")
    deadline = None if timeout is None else time.monotonic() + timeout
    try:
        with Sandbox(args, host=host, timeout=timeout, **options) as box:
            sent = input.encode(*coding) if is_text and input is not None else input
            left = None if deadline is None else deadline - time.monotonic()
            out, err = box.communicate(sent, left)
            status = box.wait()
    except TimeoutExpired as expired:
        expired.cmd, expired.timeout = args, timeout or 0
        raise
    if is_text:
        out, err = (_lines(told, *coding) for told in (out, err))
    if check and status:
        raise CalledProcessError(status, args, output=out, stderr=err)
    return CompletedProcess(args, status, out, err)


_RUN_KEYWORDS = (*keywords_of(run), *SandboxOptions.__annotations__)


def _check_run(args: Args | None, options: Mapping[str, Any]) -> None:
    """Check the arguments of :func:`run` that are its own.

    :raises TypeError: a keyword is unknown.
    :raises ValueError: there is no command.
    """
    check_keywords("run", options, _RUN_KEYWORDS)
    if args is None:
        raise ValueError(
            "args is None: run() needs a command; SandboxHost.start(None) starts a sandbox without"
        )


def _choose_streams(options: SandboxOptions, input: Any, capture_output: bool) -> None:
    """Make pipes of the streams that are written to and read.

    :raises ValueError: they are to be something else, too.
    """
    if input is not None:
        if options.get("stdin") is not None:
            raise ValueError("stdin and input arguments may not both be used.")
        options["stdin"] = PIPE
    if capture_output:
        if options.get("stdout") is not None or options.get("stderr") is not None:
            raise ValueError("stdout and stderr arguments may not be used with capture_output.")
        options["stdout"] = options["stderr"] = PIPE
    if options.get("stdin") is None:
        options["stdin"] = DEVNULL


def _lines(told: bytes | None, encoding: str, errors: str) -> str | None:
    """Text, with the ends of lines as :mod:`subprocess` has them."""
    if told is None:
        return None
    return told.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")
