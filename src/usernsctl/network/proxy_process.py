"""Start and stop proxies, each in a process without privileges."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from io import FileIO

from usernsctl import _text
from usernsctl._system import python_child
from usernsctl._system.descriptors import above_stdio, memory_file, open_owned, wait_readable
from usernsctl.commands.popen import DEVNULL, Popen, TimeoutExpired
from usernsctl.errors import CommandError
from usernsctl.network import refusals
from usernsctl.network.names import AllowedName
from usernsctl.network.refusals import Refusal

START_SECONDS = 30.0

# Timeout for waiting for a killed proxy, in seconds.
_END_SECONDS = 5

_MODULE = "usernsctl.network.proxy_child"

# The options of the Python interpreter that runs the proxy. python_child.command() adds -I.
_OPTIONS = ["-S", "-B", "-I"]


class ProxyProcess:
    """A running proxy process.

    The process has a user namespace and a PID namespace of its own, the caller's uid, no
    capabilities, and an empty environment. In addition to standard input, output and error, it
    inherits three descriptors. It closes one of them, the creator's pidfd, before it answers
    clients.

    :ivar pid: the pid of the process.
    :ivar handover: a Unix socket (SOCK_STREAM) over which the creator sends the byte ``+`` with two
        descriptors, the listening socket and the read end of a pipe. The proxy exits when the write
        end of the pipe is closed. A proxy without these descriptors exits when the creator exits,
        or when all copies of the Unix socket are closed.
    """

    def __init__(
        self,
        rules: Iterable[AllowedName],
        *,
        log: int | None = DEVNULL,
        is_json: bool = False,
        table: FileIO | None = None,
        name: str = "",
    ) -> None:
        """Start a proxy; do not wait until it is ready.

        :param log: the proxy's standard error, on which it prints each new denied target and its
            reason; a value that :class:`subprocess.Popen` accepts for `stderr`.
        :param is_json: whether the proxy prints JSON, as ``usernsctl run --log json`` does.
        :param table: the file of the table of denied connections, by default a new memfd. This
            object takes ownership of the file.
        :param name: the last argument of the proxy, by which :func:`is_proxy` recognises the proxy
            of a detached sandbox; empty for other proxies.
        :raises UsernsError: the process could not be started.
        """
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as passed:
            self._table = refusals.Reader(refusals.create() if table is None else table)
            failed.callback(self._table.close)
            ours, theirs = socket.socketpair()
            self.handover: socket.socket = failed.enter_context(ours)
            passed.enter_context(theirs)
            text = "".join(f"{rule}\n" for rule in rules).encode("ascii")
            file = passed.enter_context(memory_file("usernsctl-rules", text))
            file.seek(0)
            creator = passed.enter_context(open_owned(os.pidfd_open, os.getpid()))
            inherited = (self._table.fileno(), theirs.fileno(), creator.fileno())
            # Duplicate the numbers 0, 1 and 2, since the standard streams get these numbers.
            fds = tuple(above_stdio(fd, passed) for fd in inherited)
            self._process = _start(file.fileno(), fds, log, ("json" if is_json else "text", name))
            failed.pop_all()
        self.pid: int = self._process.pid

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until the proxy is ready to receive its listening socket.

        :param timeout: the timeout in seconds; at most, and by default, :data:`START_SECONDS`.
        :raises TimeoutExpired: the proxy was not ready in `timeout` seconds.
        :raises CommandError: the proxy has exited, or was not ready in :data:`START_SECONDS`.
        """
        limit = START_SECONDS if timeout is None else min(timeout, START_SECONDS)
        # Make the socket blocking, because the program may have called socket.setdefaulttimeout().
        self.handover.setblocking(True)
        ready = b""
        if wait_readable(self.handover.fileno(), timeout=limit):
            with contextlib.suppress(OSError):
                ready = self.handover.recv(1)
        elif timeout is not None and timeout < START_SECONDS:
            raise TimeoutExpired(_command(), timeout)
        if not ready:
            raise CommandError(
                "the proxy for the names of --allow did not start",
                step="exec",
                remedy=_text.command(_command()),
            )

    @property
    def counts(self) -> int:
        """The descriptor of the file in which the proxy counts denied connections."""
        return self._table.fileno()

    @property
    def denied(self) -> int:
        """The number of connections that the proxy has denied."""
        return self._table.denied

    def refusals(self) -> tuple[Refusal, ...]:
        """Return the Refusals, at most :data:`usernsctl.network.refusals.MAX_TEXTS`."""
        return self._table.refusals()

    def close(self) -> None:
        """Kill the proxy, and wait at most 5 seconds for its exit."""
        self.handover.close()
        self._process.kill()
        try:
            self._process.wait(_END_SECONDS)
        except TimeoutExpired:
            # Give up: the proxy is in a system call that SIGKILL does not interrupt, such as a read
            # from an NFS server that does not respond.
            self._process._disown()
        self._table.close()

    def release(self) -> None:
        """Close the descriptors, but let the proxy run until the sandbox's network is removed."""
        self.handover.close()
        self._process._disown()
        self._table.close()


def is_proxy(argv: list[str], name: str) -> bool:
    """Return whether `argv` is the command line of the proxy of the detached sandbox `name`."""
    # `argv` is the result of _command(): Python, its options, the paths of the script and of
    # directories, the module, and the five arguments of the module.
    options, paths, words = argv[1:4], argv[4:-6], argv[-6:]
    return (
        options == _OPTIONS
        and bool(paths)
        and all(map(os.path.isabs, paths))
        and (words[0], words[-1]) == (_MODULE, name)
    )


def _command(*words: str) -> list[str]:
    # Disable the search for third-party packages (-S), because the proxy needs none.
    python, *options = python_child.command(_MODULE, *words)
    return [python, "-S", "-B", *options]


def _start(
    rules: int, fds: tuple[int, ...], log: int | None, words: tuple[str, str]
) -> Popen[bytes]:
    return Popen(
        _command(*map(str, fds), *words),
        idmap="current",
        pid=True,
        ipc=True,
        # Start a new session, so that Ctrl-C on the caller's terminal does not kill the proxy. A
        # sandbox that survives Ctrl-C needs its proxy.
        start_new_session=True,
        stdin=rules,
        stdout=DEVNULL,
        stderr=log,
        pass_fds=fds,
        env={},
        cwd="/",
    )
