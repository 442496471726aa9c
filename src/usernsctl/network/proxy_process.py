"""Proxies for allowed names, each in a process of its own without privileges."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable

from usernsctl import _text
from usernsctl._system import python_child
from usernsctl.commands.popen import DEVNULL, Popen
from usernsctl.errors import CommandError
from usernsctl.network import refusals
from usernsctl.network.names import AllowedName
from usernsctl.network.refusals import Refusal

START_SECONDS = 30.0


class ProxyProcess:
    """A running proxy.

    The process has the caller's id in a user namespace of its own, and no capabilities there; it
    sees no other processes. It has two descriptors beside the standard ones, and an empty
    environment.

    :ivar pid: the pid of the process.
    :ivar handover: a Unix socket (SOCK_STREAM). The proxy ends when all copies of the socket are
        closed. The listening socket goes over it to the proxy, with the byte ``+``.
    """

    def __init__(
        self, rules: Iterable[AllowedName], *, log: int | None = DEVNULL, is_json: bool = False
    ) -> None:
        """Start a proxy; do not wait until it is ready.

        :param log: where the proxy prints each new refusal, as for :class:`subprocess.Popen`'s
            `stderr`.
        :param is_json: whether the proxy prints JSON, as ``usernsctl run --log json`` does.
        :raises UsernsError: the process could not be started.
        """
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as passed:
            ours, theirs = socket.socketpair()
            self.handover: socket.socket = failed.enter_context(ours)
            passed.enter_context(theirs)
            self._refusals = refusals.create()
            failed.callback(os.close, self._refusals)
            text = os.memfd_create("usernsctl-rules")
            passed.callback(os.close, text)
            os.write(text, "".join(f"{rule}\n" for rule in rules).encode("ascii"))
            os.lseek(text, 0, os.SEEK_SET)
            fds = (self._refusals, theirs.fileno())
            self._process = _start(text, fds, log, "json" if is_json else "text")
            failed.pop_all()
        self.pid: int = self._process.pid

    def wait_ready(self) -> None:
        """Wait until the proxy can take its listening socket.

        :raises CommandError: the proxy has ended, or was not ready in :data:`START_SECONDS`.
        """
        self.handover.settimeout(START_SECONDS)
        try:
            ready = self.handover.recv(1)
        except OSError:
            ready = b""
        self.handover.settimeout(None)
        if not ready:
            raise CommandError(
                "the proxy for the names of --allow did not start",
                step="exec",
                remedy=_text.command(_command()),
            )

    @property
    def counts(self) -> int:
        """The descriptor of the table of refusals, which begins with their number."""
        return self._refusals

    @property
    def denied(self) -> int:
        """The number of connections that the proxy has refused."""
        return self._denied if self._refusals < 0 else refusals.total(self._refusals)

    def refusals(self) -> tuple[Refusal, ...]:
        """Return the distinct refusals, at most :data:`usernsctl.network.refusals.MAX_TEXTS`."""
        return self._listed if self._refusals < 0 else tuple(refusals.listed(self._refusals))

    def close(self) -> None:
        """End the proxy, and wait for its end."""
        self.handover.close()
        self._process.kill()
        self._process.wait()
        if self._refusals >= 0:
            self._denied, self._listed = self.denied, self.refusals()
            os.close(self._refusals)
            self._refusals = -1


def _command(*words: str) -> list[str]:
    # The proxy needs no third-party packages, so Python does not search for them (-S).
    python, *options = python_child.command("usernsctl.network.proxy_child", *words)
    return [python, "-S", "-B", *options]


def _start(rules: int, fds: tuple[int, ...], log: int | None, form: str) -> Popen[bytes]:
    return Popen(
        _command(*map(str, fds), form),
        idmap="current",
        pid=True,
        ipc=True,
        # A new session, since Ctrl-C on the caller's terminal is for the sandbox, which may
        # continue and need the proxy.
        start_new_session=True,
        stdin=rules,
        stdout=DEVNULL,
        stderr=log,
        pass_fds=fds,
        env={},
        cwd="/",
    )
