"""One sandbox: started, used and ended by a program."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from usernsctl import aio, runsc
from usernsctl import process as commands
from usernsctl.errors import CommandError, NamespaceError, RunscError
from usernsctl.namespace import Namespace
from usernsctl.process import DEVNULL, PIPE, CompletedProcess, Popen
from usernsctl.sandbox import environment
from usernsctl.sandbox.standard import prepared_output
from usernsctl.target import Target

if TYPE_CHECKING:
    from usernsctl.sandbox.host import SandboxHost

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ENVIRONMENT = {"PATH": environment.DEFAULT_PATH}


class Sandbox:
    """A command in gVisor, and what else is started beside it.

    It lives until the command ends, it is closed, or the process that made it ends, however that
    ends. Beside runsc's own two processes there is one of ours, of a few hundred KiB: process 1 of
    the PID namespace that all of them are in.

    It is a context manager, also an asynchronous one, that closes the sandbox at its end.

    :ivar id: what runsc calls it.
    :ivar args: the command, empty if it is the bundle's own.
    :ivar stdin, stdout, stderr: our ends of the pipes asked for, as :class:`subprocess.Popen` has
        them.
    """

    def __init__(
        self,
        args: Iterable[str] = (),
        *,
        host: SandboxHost | None = None,
        id: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: tuple[int, int] | None = None,
        stdin: Any = DEVNULL,
        stdout: Any = None,
        stderr: Any = None,
        **host_options: Any,
    ) -> None:
        """Start a command in a sandbox, and return when it runs.

        :param args: the command and its arguments; may be left out for a bundle, which has its own.
        :param host: where; by default in a host of its own, made of `host_options`, the arguments
            of :class:`SandboxHost`.
        :param id: what runsc calls it; by default a new one is drawn.
        :param env: what is set beside PATH, LANG and TERM, or beside the bundle's own variables.
        :param cwd: where the command starts, a path inside; by default ``/``, or the bundle's own.
        :param user: uid and gid inside; by default 0 and 0, or the bundle's own.
        :param stdin: as for :class:`subprocess.Popen`, and so `stdout` and `stderr`. A file is
            appended to: gVisor writes at an offset of its own.
        :raises ValueError: `host` and `host_options` are both given, or there is no command.
        :raises RunscError: runsc failed; cause ``"duplicate-id"`` if a sandbox has that id already,
            which is left alone.
        :raises UsernsError: as :class:`SandboxHost` does.
        """
        self.args = tuple(args)
        self.id = _checked(id) if id is not None else f"usernsctl-{os.urandom(8).hex()}"
        if host is not None and host_options:
            raise ValueError(f"the host decides these already: {', '.join(host_options)}")
        self._owns_host = host is None
        self._host = _make_host(host_options) if host is None else host
        self._inside: Namespace | None = None
        self._popen: Popen[bytes] | None = None
        self._has_directory = False
        try:
            if not self.args and self._host.request.bundle is None:
                raise ValueError("args is empty: it must hold a command")
            text = self._host.config_for(self.args, env=env, cwd=cwd, user=user)
            self._make_directory(text)
            self._start(stdin, stdout, stderr)
        except BaseException:
            self.close()
            raise

    def _make_directory(self, config: bytes) -> None:
        try:
            os.mkdir(self.id, 0o700, dir_fd=self._host.directory)
        except FileExistsError as error:
            raise RunscError(
                f"there is a sandbox {self.id!r} in this host already",
                step="sandbox",
                cause="duplicate-id",
                remedy="choose another id, or leave it out",
            ) from error
        self._has_directory = True
        for name in ("state", "log"):
            os.mkdir(f"{self.id}/{name}", 0o700, dir_fd=self._host.directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        name = f"{self.id}/config.json"
        with open(os.open(name, flags, 0o600, dir_fd=self._host.directory), "wb") as file:
            file.write(config)

    def _start(self, stdin: Any, stdout: Any, stderr: Any) -> None:
        inside = f"{self._host.prepared.scratch}/boxes/{self.id}"
        command = runsc.command_line(
            self._host.runsc,
            runsc.RunOptions(
                state=f"{inside}/state",
                bundle=inside,
                container_id=self.id,
                log=f"{inside}/log",
                network=self._host.request.network,
                platform=self._host.request.platform,
            ),
        )
        pid_file = f"{inside}/pid"
        detach = ["--detach", f"--pid-file={pid_file}"]
        creator = os.pidfd_open(os.getpid())
        ready, theirs = os.pipe()
        try:
            init = [self._host.prepared.init, str(creator), str(theirs), pid_file]
            self._popen = Popen[bytes](
                [*init, *command[:-2], *detach, *command[-2:]],
                namespace=_WithProc(self._host.namespace),
                mount=True,
                pid=True,
                pass_fds=[creator, theirs],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=stdin,
                stdout=prepared_output(stdout, 1),
                stderr=prepared_output(stderr, 2),
            )
            os.close(theirs)
            theirs = -1
            self._wait_until_ready(ready)
            self._inside = self._open_inside()
        finally:
            for fd in (creator, ready, theirs):
                if fd >= 0:
                    os.close(fd)

    def _open_inside(self) -> Namespace | None:
        """What commands of runsc's join; ``None`` where the command has ended already."""
        try:
            return Namespace.from_pid(self.init.pid)
        except NamespaceError as error:
            if error.cause != "target-gone":
                raise
            # It gives its namespaces up some time before it can be waited for.
            self.init.wait()
            return None

    def _wait_until_ready(self, ready: int) -> None:
        """Wait for the byte that process 1 writes, or for its end."""
        popen = self.init
        select.select([ready, popen.pidfd], [], [])
        os.set_blocking(ready, False)
        with contextlib.suppress(BlockingIOError):
            if os.read(ready, 1):
                return
        status = popen.wait()
        raise self._failure(status)

    def _failure(self, status: int) -> RunscError:
        # The catalogue of causes is read only if it is needed.
        from usernsctl.doctor.debuglog import root_failure
        from usernsctl.sandbox.failure import describe

        told = root_failure(f"/proc/self/fd/{self._host.directory}/{self.id}/log")
        if told is None:
            return RunscError(f"runsc ended with status {status} before it started", step="runsc")
        return describe(told)

    @property
    def init(self) -> Popen[bytes]:
        """Process 1 of the sandbox's PID namespace, seen from outside; it ends as the sandbox does.

        To kill it is to kill all that is in the sandbox.
        """
        assert self._popen is not None
        return self._popen

    @property
    def stdin(self) -> Any:
        return self.init.stdin

    @property
    def stdout(self) -> Any:
        return self.init.stdout

    @property
    def stderr(self) -> Any:
        return self.init.stderr

    @property
    def returncode(self) -> int | None:
        """The exit status of the command, 128+N after signal N; ``None``: none was seen yet."""
        status = self.init.returncode
        return 128 - status if status is not None and status < 0 else status

    def poll(self) -> int | None:
        """Look whether the command has ended: :attr:`returncode`."""
        self.init.poll()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command: its :attr:`returncode`.

        :raises TimeoutExpired: it took more than `timeout` seconds; it goes on.
        """
        self.init.wait(timeout)
        status = self.returncode
        assert status is not None
        return status

    async def wait_async(self) -> int:
        """The same from asyncio; to cancel this changes nothing."""
        if self.poll() is None:
            await aio.wait_for_end(self.init.pidfd)
        return self.wait()

    def kill(self, sig: int = signal.SIGTERM) -> None:
        """Send a signal to the command. SIGKILL ends all that is in the sandbox, at once.

        :raises RunscError: runsc refused. A command that has ended gets none, without an error.
        """
        if self.poll() is not None:
            return
        if sig == signal.SIGKILL:
            self.init.kill()
            return
        done = self._runsc("kill", self.id, str(int(sig)))
        if done.returncode != 0 and self.poll() is None:
            raise RunscError(_last_line(done.stderr), step="runsc")

    def state(self) -> dict[str, Any]:
        """What runsc says of it, as the OCI runtime specification has it ("State").

        :raises RunscError: runsc refused.
        """
        if self.poll() is None:
            done = self._runsc("state", self.id)
            if done.returncode == 0:
                return dict(json.loads(done.stdout))
            if self.poll() is None:
                raise RunscError(_last_line(done.stderr), step="runsc")
        return {"id": self.id, "status": "stopped"}

    def run(self, args: Sequence[str], **options: Any) -> CompletedProcess[Any]:
        """Run another command in the sandbox: :func:`usernsctl.run`, and :meth:`popen`."""
        command, arguments = self._exec(args, options)
        return commands.run(command, **arguments)

    def popen(self, args: Sequence[str], **options: Any) -> Popen[Any]:
        """Start another command in the sandbox.

        It costs a process of runsc, which waits for the command, passes signals on, and ends as the
        command does.

        :param options: `env`, `cwd` and `user`, as :class:`Sandbox` has them, and the other
            arguments of :class:`usernsctl.Popen`, but for those about namespaces.
        :raises CommandError: the sandbox has ended.
        """
        command, arguments = self._exec(args, options)
        return Popen[Any](command, **arguments)

    async def create_subprocess_exec(self, program: str, *args: str, **options: Any) -> aio.Process:
        """Start another command in the sandbox from asyncio: see :meth:`popen`."""
        command, arguments = self._exec([program, *args], options)
        return await aio.create_subprocess_exec(*command, **arguments)

    def _exec(
        self, args: Sequence[str], options: dict[str, Any]
    ) -> tuple[list[str], dict[str, Any]]:
        if self._inside is None or self.poll() is not None:
            raise CommandError(f"the sandbox {self.id} has ended", step="sandbox")
        arguments = dict(options)
        words = [
            f"--env={name}={value}" for name, value in (arguments.pop("env", None) or {}).items()
        ]
        if (cwd := arguments.pop("cwd", None)) is not None:
            words.append(f"--cwd={cwd}")
        if (user := arguments.pop("user", None)) is not None:
            words.append(f"--user={user[0]}:{user[1]}")
        command = [*self._runsc_words(), "exec", *words, self.id, *args]
        return command, {**arguments, "namespace": self._inside, "env": _ENVIRONMENT, "cwd": "/"}

    def _runsc_words(self) -> list[str]:
        state = f"{self._host.prepared.scratch}/boxes/{self.id}/state"
        return [self._host.runsc, f"--root={state}"]

    def _runsc(self, *words: str) -> CompletedProcess[str]:
        assert self._inside is not None
        return self._inside.run(
            [*self._runsc_words(), *words],
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            text=True,
            env=_ENVIRONMENT,
            cwd="/",
        )

    def close(self) -> None:
        """End the sandbox, if it has not ended, and forget it. Does nothing the second time."""
        if self._popen is not None:
            self._popen.kill()
            for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self._popen.wait()
        if self._inside is not None:
            self._inside.close()
        if self._has_directory and self._host.directory >= 0:
            # Its id is free again from here on.
            self._has_directory = False
            shutil.rmtree(self.id, ignore_errors=True, dir_fd=self._host.directory)
        if self._owns_host:
            self._host.close()

    async def close_async(self) -> None:
        """The same from asyncio."""
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.close)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close_async()


class _WithProc:
    """A namespace whose commands get a /proc that fits their PID namespace: runsc reads it."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def target(self) -> Target:
        target = self._namespace.target()
        target.setup.mount_proc = "/proc"
        return target


def _make_host(options: dict[str, Any]) -> SandboxHost:
    from usernsctl.sandbox.host import SandboxHost

    return SandboxHost(**options)


def _checked(id: str) -> str:
    if not _NAME.fullmatch(id):
        raise ValueError(
            f"{id!r} can't be an id: it must be 1 to 64 letters, digits, dots, dashes and "
            "underscores, the first a letter, a digit or an underscore"
        )
    return id


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "runsc failed without a word"
