"""Proxies for allowed names, each in a process of its own without privileges."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator

from usernsctl._system import python_child
from usernsctl.commands.popen import DEVNULL, Popen
from usernsctl.errors import CommandError
from usernsctl.network import refusals
from usernsctl.network.names import AllowedName
from usernsctl.network.refusals import Refusal

START_SECONDS = 30.0

# The proxy needs no packages, so Python does not look for them (-S).
_FLAGS = ("-S", "-B")


class ProxyProcess:
    """A running proxy.

    The process has the caller's id in a user namespace of its own, and no capabilities there; it
    sees no other processes. It gets three descriptors, an empty environment, and ends when the
    sandbox ends, also if this process is killed.

    :ivar pid: the pid of the process.
    :ivar handover: a Unix socket (SOCK_STREAM). The listening socket goes over it to the proxy, as
        the only descriptor of a message of one byte; the answer is one byte.
    """

    def __init__(
        self, rules: Iterable[AllowedName], *, ended: int | None = None, log: int | None = DEVNULL
    ) -> None:
        """Start a proxy, without a wait for its start.

        :param ended: a descriptor that becomes readable, or is hung up, when the proxy shall end,
            such as a pidfd; None for the end of this process or :meth:`close`.
        :param log: where the proxy prints each new refusal, as for :class:`subprocess.Popen`'s
            `stderr`.
        :raises UsernsError: the process could not be started.
        """
        self.handover, theirs = socket.socketpair()
        self._fds = [refusals.create()]
        passed = []
        try:
            if ended is None:
                ended, alive = os.pipe()
                passed.append(ended)
                self._fds.append(alive)
            passed.append(text := os.memfd_create("usernsctl-rules"))
            os.write(text, "".join(f"{rule}\n" for rule in rules).encode("ascii"))
            os.lseek(text, 0, os.SEEK_SET)
            self._process = _start(text, (theirs.fileno(), self._fds[0], ended), log)
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()
            for fd in passed:
                os.close(fd)
        self.pid = self._process.pid

    def send(self, listener: int) -> None:
        """Give the proxy its listening socket, and wait until the proxy answers connections.

        :param listener: the descriptor of the socket, which the caller may close afterwards.
        :raises CommandError: the proxy has ended or is late.
        """
        try:
            self.handover.settimeout(START_SECONDS)
            socket.send_fds(self.handover, [b"l"], [listener])
            ready = self.handover.recv(1)
        except OSError:
            ready = b""
        if not ready:
            raise CommandError(
                "the proxy for allowed names did not start",
                step="exec",
                remedy="usernsctl doctor",
            )
        self.handover.close()

    @property
    def denied(self) -> int:
        """The number of connections that the proxy has refused."""
        return refusals.total(self._fds[0])

    def refusals(self) -> Iterator[Refusal]:
        """Return the distinct refusals, at most :data:`usernsctl.network.refusals.MAX_TEXTS`."""
        return refusals.listed(self._fds[0])

    def close(self) -> None:
        """End the proxy, and wait for its end."""
        self.handover.close()
        fds, self._fds = self._fds, []
        for fd in fds:
            os.close(fd)
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()
            process.wait()


def _start(rules: int, fds: tuple[int, ...], log: int | None) -> Popen[bytes]:
    python, *words = python_child.command("usernsctl.network.proxy_child", *map(str, fds))
    return Popen(
        [python, *_FLAGS, *words],
        idmap="current",
        pid=True,
        ipc=True,
        stdin=rules,
        stdout=DEVNULL,
        stderr=log,
        pass_fds=fds,
        env={},
        cwd="/",
    )
