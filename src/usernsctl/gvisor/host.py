""":class:`SandboxHost` for starting sandboxes, and :func:`run` for a single command."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack, overload

from usernsctl._lean import LateModule
from usernsctl._system.descriptors import deadline_after, seconds_left
from usernsctl.commands.arguments import (
    Args,
    StrOrBytesPath,
    check_keywords,
    check_timeout,
    keywords_of,
)
from usernsctl.commands.async_start import start_in_executor
from usernsctl.commands.popen import (
    DEVNULL,
    PIPE,
    CalledProcessError,
    TimeoutExpired,
)
from usernsctl.gvisor.agent.commands import CommandOptions
from usernsctl.gvisor.result import Result
from usernsctl.gvisor.sandbox.host_namespace import HostBase, HostOptions
from usernsctl.gvisor.sandbox.sandbox import Sandbox, StartOptions

if TYPE_CHECKING:
    from usernsctl.gvisor import async_output, output
    from usernsctl.gvisor.pool import pool as pools
    from usernsctl.gvisor.template import checkpoint
    from usernsctl.gvisor.template import python as python_templates
    from usernsctl.gvisor.template import template as templates
else:
    # Import modules on first use, because few programs need all of them.
    async_output = LateModule("usernsctl.gvisor.async_output")
    output = LateModule("usernsctl.gvisor.output")
    pools = LateModule("usernsctl.gvisor.pool.pool")
    checkpoint = LateModule("usernsctl.gvisor.template.checkpoint")
    python_templates = LateModule("usernsctl.gvisor.template.python")
    templates = LateModule("usernsctl.gvisor.template.template")


class SandboxOptions(CommandOptions, HostOptions, total=False):
    """Arguments of :func:`usernsctl.gvisor.run` that configure the sandbox and its host."""


class RunOptions(SandboxOptions, total=False):
    """Arguments of :func:`usernsctl.gvisor.run` whose types don't depend on the argument `text`."""

    capture_output: bool
    timeout: float | None
    check: bool
    max_output: int | None
    on_overflow: output.OnOverflow
    host: HostBase | None


class AnyRunOptions(RunOptions, total=False):
    """Arguments of :func:`usernsctl.gvisor.run`, if `text` has the static type bool."""

    input: Any
    text: bool | None
    encoding: str | None
    errors: str | None


class SandboxHost(HostBase):
    """A persistent namespace in which any thread or asyncio task can start sandboxes.

    The constructor writes the id map and builds a root filesystem, as ``usernsctl run`` does. This
    takes a few tenths of a second, so call :meth:`create_async` in an event loop. Each sandbox then
    starts as fast as runsc starts. The files of the SandboxHost are in mounts of the namespace. The
    kernel removes these mounts once the SandboxHost is closed and its last sandbox has ended. Only
    processes of sandboxes run in the namespace.

    A SandboxHost is a context manager, also an asynchronous one, that closes the host on exit.

    :param idmap: the id map of the namespace, as for :class:`usernsctl.Popen`; by default, only the
        caller's own id is mapped, to root.
    :param namespace: the persistent :class:`usernsctl.Namespace` in which the sandboxes are
        started, or its name; not with `idmap`. The caller may close the Namespace afterwards.
    :param bundle: the directory of an OCI bundle. Its config.json sets each option that no argument
        sets. Without `bundle`, `rootfs` and `expose_root`, the root filesystem of a sandbox has the
        host's program directories, such as /usr.
    :param bool trust: whether the bundle's bind mounts, annotations and capabilities apply
        unchanged. By default, a bind mount whose source is outside of the bundle raises
        :class:`usernsctl.BundleError`, and runsc receives only harmless annotations.
    :param bool allow_hooks: whether runsc executes the bundle's hooks for each sandbox. Hooks are
        programs OUTSIDE gVisor, on the host's kernel, with the caller's privileges.
    :param rootfs: the directory of a root filesystem.
    :param bool expose_root: whether the host's root directory is the root filesystem, read-only.
    :param bool writable_root: whether root in the sandbox may write to all files of the root
        filesystem, such as those in /etc and /usr, whoever owns them. Writes stay in memory.
    :param binds: additional bind mounts, each a path, a text ``"SRC[:DST][:ro|rw]"`` as for
        ``--bind``, or a :class:`usernsctl.Bind`.
    :param str hostname: the hostname in the sandbox.
    :param rlimits: limits of each process in the sandbox, enforced by gVisor; each a text
        ``"NAME=SOFT[:HARD]"`` as for ``--rlimit``, in the units of setrlimit(2), or a
        :class:`usernsctl.Rlimit`.
    :param memory: the memory limit of each sandbox, for all its memory including gVisor's own and
        files in memory: a number of bytes, or a text such as ``"512M"`` or ``"1.5GiB"``. See
        :class:`Sandbox` for what happens to a sandbox that exceeds a limit.
    :param int pids: the maximum number of host processes and threads of each sandbox. gVisor itself
        has about 20, and runs each process of the sandbox in one or two.
    :param cpus: the number of processors that each sandbox may use.
    :param disk: how much each sandbox may write to its root filesystem, and to each tmpfs such as
        /tmp; a size as for `memory`. Writes beyond the limit fail with ENOSPC.
    :param ttl: the time after which each sandbox is killed; seconds, or a text such as ``"2m"``.
    :param idle_timeout: the time without a running command after which each sandbox without a first
        command is killed; seconds, or a text. In a pool, only the time while a sandbox is leased
        counts.
    :param str limits: ``"strict"``, the default, to raise an error for a limit that can't be
        enforced on this host; ``"best-effort"`` to ignore the limit.
    :param str network: ``"none"``, the default, for a loopback device only; ``"host"`` for the
        network of the host; or ``"private"`` for a network of each sandbox's own that reaches other
        machines but not the host.
    :param allow: the destinations that each sandbox may reach: either names (``"NAME[:PORT]"`` or
        ``"*.NAME[:PORT]"``), by HTTP and HTTPS through a proxy, or addresses (``"CIDR[:PORT]"``).
    :param str platform: the platform of gVisor: ``"systrap"``, ``"ptrace"`` or ``"kvm"``; by
        default runsc chooses.
    :param debug_log: a directory for runsc's debug logs, which have no size limit; it is
        created if it does not exist.
    :param runsc: the absolute path of runsc; by default the value of ``USERNSCTL_RUNSC`` or
        ``RUNSC_PATH``, else the first runsc in PATH.
    :param bool verify: whether usernsctl checks in each sandbox that its kernel is gVisor, before a
        command starts.
    :param bool no_new_privs: whether runsc, its children and the commands in the sandbox are
        prevented from gaining privileges by set-user-id programs (PR_SET_NO_NEW_PRIVS(2const)).
    :param bool drop_bounding: whether runsc's capability bounding set has only the capabilities
        that runsc needs.
    :raises ValueError: an argument has a wrong value; two arguments exclude each other, such as
        `bundle` and `rootfs`; `trust` or `allow_hooks` is given without `bundle`; the Namespace is
        closed, or has a PID namespace.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises BindError: a bind mount is impossible or not allowed. The error is also a
        :class:`FileNotFoundError` if the source does not exist.
    :raises UsernsError: the SandboxHost can't be created, for example because runsc is missing, an
        id can't be mapped, or a mount is denied.
    """

    def start(self, args: Args | None = (), **options: Unpack[StartOptions]) -> Sandbox:
        """Start a command in a new sandbox, and return once the command runs.

        The start takes some tenths of a second, so call :meth:`start_async` in an event loop.

        :param args: the command and its arguments, a string as a command without arguments, or
            ``None`` for a sandbox without a first command, as for :class:`Sandbox`.
        :param options: `id`, `env`, `cwd`, `user`, `stdin`, `stdout`, `stderr`, `terminal`,
            `detach`, `in_cgroup` and `timeout`, as for :class:`Sandbox`.
        :raises ValueError: the host is closed, or an argument has a wrong value.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises TimeoutExpired: the start took more than `timeout` seconds.
        :raises UsernsError: as :class:`Sandbox` does.
        """
        return Sandbox(args, host=self, **options)

    async def start_async(self, args: Args | None = (), **options: Unpack[StartOptions]) -> Sandbox:
        """Start a command in a new sandbox from asyncio: see :meth:`start`.

        If this call is cancelled, the sandbox is closed.
        """
        return await start_in_executor(lambda: self.start(args, **options), Sandbox.close)

    def template(
        self,
        args: Args | None = None,
        *,
        ready: checkpoint.AnyReady | None = None,
        **options: Unpack[templates.TemplateOptions],
    ) -> templates.Template:
        """Start a command, save a checkpoint once the command is ready, and kill the sandbox.

        :param args: the command and its arguments, or a string as a command without arguments.
            ``None`` saves usernsctl's agent, for sandboxes without a first command
            (:class:`Sandbox`).
        :param ready: when the command is ready: ``"line:TEXT"``, once the command has written the
            line TEXT to its standard output; ``"file:PATH"``, once PATH exists in the sandbox;
            ``"port:N"``, once a process in the sandbox listens on the TCP port N. A text that has
            no such prefix is a path if it begins with ``/``, else a line. A function is called with
            the sandbox, and returns when the command is ready. `ready` may be missing only if
            `args` is ``None``.
        :param options: `env`, `cwd` and `user`, as for :class:`Sandbox`; `timeout`, the time limit
            of the call, in seconds, 300 by default.
        :returns: the template.
        :raises ValueError: an argument has a wrong value, or the host is closed.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises TimeoutExpired: the call took more than `timeout` seconds, and everything it started
            was removed.
        :raises RunscError: the command exited before it was ready (cause ``"template-not-ready"``),
            or runsc can't save a checkpoint (``"template-unsavable"``, or ``"disk-full"`` if the
            checkpoint does not fit the tmpfs of this host).
        :raises UsernsError: as :class:`Sandbox` does.
        """
        _check_template("template", options)
        return templates.Template._make(self, args, ready=ready, **options)

    async def template_async(
        self,
        args: Args | None = None,
        *,
        ready: checkpoint.AnyReady | None = None,
        **options: Unpack[templates.TemplateOptions],
    ) -> templates.Template:
        """Create a template from asyncio: see :meth:`template`.

        If this call is cancelled, the template is closed.
        """
        return await start_in_executor(
            lambda: self.template(args, ready=ready, **options), lambda made: made.close()
        )

    def python_template(
        self,
        *,
        python: StrOrBytesPath = "python3",
        preload: Iterable[str] = (),
        code: str | None = None,
        **options: Unpack[templates.TemplateOptions],
    ) -> python_templates.PythonTemplate:
        """Start a Python interpreter, and save a checkpoint once it has imported `preload`.

        :param python: the path of the interpreter in the sandbox, or its name.
        :param preload: the names of the modules to import.
        :param str code: source code to execute after the imports.
        :param options: `env`, `cwd`, `user` and `timeout`, as for :meth:`template`.
        :returns: the template.
        :raises ValueError: an argument has a wrong value, or the host is closed.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises TimeoutExpired: the call took more than `timeout` seconds, and everything it started
            was removed.
        :raises RunscError: the imports or `code` failed (cause ``"template-not-ready"``), or left
            threads or open sockets (``"template-unsavable"``).
        :raises UsernsError: as :class:`Sandbox` does.
        """
        _check_template("python_template", options)
        return python_templates.PythonTemplate._make_python(
            self, python=python, preload=preload, code=code, **options
        )

    async def python_template_async(
        self,
        *,
        python: StrOrBytesPath = "python3",
        preload: Iterable[str] = (),
        code: str | None = None,
        **options: Unpack[templates.TemplateOptions],
    ) -> python_templates.PythonTemplate:
        """Create a template of an interpreter from asyncio: see :meth:`python_template`.

        If this call is cancelled, the template is closed.
        """
        return await start_in_executor(
            lambda: self.python_template(python=python, preload=preload, code=code, **options),
            lambda made: made.close(),
        )

    def pool(self, size: int, **options: Unpack[pools.PoolOptions]) -> pools.SandboxPool:
        """Create a pool of sandboxes that are started in advance, and return at once.

        Threads of the pool start the sandboxes; :meth:`usernsctl.SandboxPool.acquire` leases them.

        :param int size: the number of idle sandboxes that the pool keeps ready.
        :param options: the other arguments of :class:`SandboxPool`.
        :raises TypeError: an argument has the wrong type, or is unknown.
        :raises ValueError: an argument has a wrong value, or the host is closed.
        """
        check_keywords("pool", options, pools.PoolOptions.__annotations__)
        return pools.SandboxPool(self, size, **options)


def _check_template(method: str, options: Mapping[str, Any]) -> None:
    """Check that `method`, which creates a template, accepts all keywords in `options`.

    :raises TypeError: a keyword is unknown.
    """
    named = keywords_of(getattr(SandboxHost, method))
    check_keywords(method, options, (*named, *templates.TemplateOptions.__annotations__))


@overload
def run(
    args: Args = (),
    *,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> Result[str]: ...


@overload
def run(
    args: Args = (),
    *,
    text: Literal[True] | None = None,
    encoding: str,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> Result[str]: ...


@overload
def run(
    args: Args = (),
    *,
    text: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: bytes | None = None,
    **options: Unpack[RunOptions],
) -> Result[bytes]: ...


@overload
def run(args: Args = (), **options: Unpack[AnyRunOptions]) -> Result[Any]: ...


def run(args: Args = (), **options: Unpack[AnyRunOptions]) -> Result[Any]:
    """Run a command in gVisor and wait for it, as :func:`subprocess.run` does.

    The sandbox ends when the command exits, and its files are removed. A caller that runs many
    commands should pass the same `host` each time.

    :param args: the command and its arguments, or a string as a command without arguments. Optional
        for a bundle, whose config.json has a command.
    :param options: `input`, `capture_output`, `timeout` (in seconds, the start included), `check`,
        `text`, `encoding` and `errors`, as for :func:`subprocess.run`, but text is UTF-8 by
        default. `max_output`, the number of bytes to capture from standard output, and as many from
        standard error: half of them from the beginning of the output, half from the end. The bytes
        between are only counted. `on_overflow`, ``"kill"`` to kill a command that writes more than
        `max_output`, or ``"truncate"``, the default. `host`, the :class:`usernsctl.SandboxHost` in
        which the sandbox is started, by default a new one. `env`, `cwd`, `user`, `stdin`, `stdout`,
        `stderr` and `in_cgroup`, as for :class:`usernsctl.Sandbox`; without `host`, also the
        arguments of :class:`usernsctl.SandboxHost`.
    :returns: the exit status of the command, or -N if signal N killed it, its output, and the
        reason for its exit.
    :raises TimeoutExpired: the command took more than `timeout` seconds, and was killed.
    :raises CalledProcessError: `check` is true, and the exit status of the command is not 0.
    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: `input` and `stdin` are both given; `capture_output` is true, and `stdout`
        or `stderr` is given; or :class:`usernsctl.Sandbox` raises ValueError.
    :raises UsernsError: :class:`usernsctl.Sandbox` raises UsernsError.
    """
    call = _call_of(args, **options)
    try:
        with Sandbox(args, **call.options) as box:
            left = seconds_left(call.deadline)
            if call.bounds is None:
                out, err = box.communicate(call.input, left)
            else:
                call.bounds.communicate(box, call.input, left, wait=box.result, kill=box.kill)
                out, err = call.bounds.data(box)
            return call.completed(box, box.result(), out, err)
    except TimeoutExpired as expired:
        expired.cmd, expired.timeout = args, options.get("timeout") or 0
        raise


@overload
async def run_async(
    args: Args = (),
    *,
    text: Literal[True],
    encoding: str | None = None,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> Result[str]: ...


@overload
async def run_async(
    args: Args = (),
    *,
    text: Literal[True] | None = None,
    encoding: str,
    errors: str | None = None,
    input: str | None = None,
    **options: Unpack[RunOptions],
) -> Result[str]: ...


@overload
async def run_async(
    args: Args = (),
    *,
    text: Literal[False] | None = None,
    encoding: None = None,
    errors: None = None,
    input: bytes | None = None,
    **options: Unpack[RunOptions],
) -> Result[bytes]: ...


@overload
async def run_async(args: Args = (), **options: Unpack[AnyRunOptions]) -> Result[Any]: ...


async def run_async(args: Args = (), **options: Unpack[AnyRunOptions]) -> Result[Any]:
    """Run a command in gVisor from asyncio, and wait for it: see :func:`run`.

    If this call is cancelled, the sandbox is killed.

    :param args: as for :func:`run`.
    :param options: as for :func:`run`.
    :raises TimeoutExpired: as :func:`run` does.
    """
    call = _call_of(args, **options)
    bounds = call.bounds or output.BoundedOutput.without_limit()
    try:
        async with await Sandbox.create_async(args, **call.options) as box:

            async def end() -> None:
                box.kill()
                await box.result_async()

            await async_output.communicate(
                box,
                call.input,
                seconds_left(call.deadline),
                bounds,
                wait=box.result_async,
                end=end,
            )
            return call.completed(box, await box.result_async(), *bounds.data(box))
    except TimeoutExpired as expired:
        expired.cmd, expired.timeout = args, options.get("timeout") or 0
        raise


class _Call(NamedTuple):
    """The checked arguments of :func:`run` or :func:`run_async`.

    :ivar input: the standard input, as bytes.
    :ivar coding: the encoding of the standard streams, and the error handler; ``None`` if the
        streams carry bytes.
    :ivar options: the arguments of the Sandbox.
    """

    args: Args
    input: bytes | None
    check: bool
    coding: tuple[str, str] | None
    bounds: output.BoundedOutput | None
    deadline: float | None
    options: dict[str, Any]

    def completed(self, box: Sandbox, result: Result[Any], out: Any, err: Any) -> Result[Any]:
        """Add the arguments and the output of the command to `result`, and return `result`.

        :raises LimitError: `check` is true, and the sandbox was killed because of a limit.
        :raises CalledProcessError: `check` is true, and the exit status of the command is not 0.
        """
        if self.bounds is not None:
            self.bounds.describe(result)
        if self.coding and self.bounds is not None:
            out, err = self.bounds.texts(box, *self.coding)
        elif self.coding:
            out, err = (_lines(told, *self.coding) for told in (out, err))
        result.args, result.stdout, result.stderr = self.args, out, err
        if self.check and result.returncode:
            box.wait()  # raises LimitError if a limit was exceeded
            raise CalledProcessError(result.returncode, self.args, out, err)
        return result


def _call_of(
    args: Args,
    *,
    input: Any = None,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    text: bool | None = None,
    encoding: str | None = None,
    errors: str | None = None,
    max_output: int | None = None,
    on_overflow: output.OnOverflow = "truncate",
    host: HostBase | None = None,
    **options: Unpack[SandboxOptions],
) -> _Call:
    """Check the arguments of :func:`run` or :func:`run_async`.

    :raises TypeError: an argument has the wrong type, or is unknown.
    :raises ValueError: two arguments exclude each other, or one has a wrong value.
    """
    check_timeout(timeout)
    _check_run(args, options)
    _choose_streams(options, input, capture_output)
    bounds = None
    if max_output is not None or on_overflow != "truncate":
        streams = options.get("stdout"), options.get("stderr")
        bounds = output.BoundedOutput(max_output, on_overflow, *streams)
    is_text = bool(text or encoding or errors)
    coding = (encoding or "utf-8", errors or "strict") if is_text else None
    sent = input.encode(*coding) if coding and input is not None else input
    given: dict[str, Any] = {**options, "host": host, "timeout": timeout}
    return _Call(args, sent, check, coding, bounds, deadline_after(timeout), given)


_RUN_KEYWORDS = (*keywords_of(_call_of), *SandboxOptions.__annotations__)


def _check_run(args: Args | None, options: Mapping[str, Any]) -> None:
    """Check `args` and the names of the keyword arguments of :func:`run`.

    :raises TypeError: a keyword is unknown.
    :raises ValueError: `args` is None.
    """
    check_keywords("run", options, _RUN_KEYWORDS)
    if args is None:
        raise ValueError(
            "args is None: run() needs a command, but SandboxHost.start(None) does not"
        )


def _choose_streams(options: SandboxOptions, input: Any, capture_output: bool) -> None:
    """Set the standard streams in `options` as `input` and `capture_output` require.

    :raises ValueError: `options` also sets one of these streams.
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
    """Decode output, and convert line ends to newlines, as :mod:`subprocess` does."""
    if told is None:
        return None
    return told.decode(encoding, errors).replace("\r\n", "\n").replace("\r", "\n")
