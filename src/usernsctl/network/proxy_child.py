"""The process of a proxy: ``python -m usernsctl.network.proxy_child FD FD FD FORMAT NAME``.

:mod:`usernsctl.network.proxy_process` starts the process, which reads the rules from standard
input, one per line. The descriptors FD are the table of denied connections, a Unix socket and a
pidfd of the creator. FORMAT is the format of the log on standard error, ``json`` or ``text``. NAME
only identifies the process in its command line.

Over the Unix socket, the process reports that it is ready, and receives the listening socket and
the read end of a pipe. The process exits when the write end of the pipe is closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading
import time

from usernsctl._lean import TYPE_CHECKING, NoReturn
from usernsctl._text import shown
from usernsctl.network import confinement, refusals
from usernsctl.network.names import AllowedName, Rules
from usernsctl.network.proxy import Limits, Proxy, serve

if TYPE_CHECKING:
    from collections.abc import Callable

READY = b"+"
"""The message that the proxy sends when it is ready to receive the listening socket."""

_STACK = 512 * 1024


class _Log:
    """A log that counts denied connections in the table, and prints each new target and reason.

    :param is_json: whether to print JSON, as ``usernsctl run --log json`` does.
    """

    def __init__(self, fd: int, *, is_json: bool) -> None:
        self._line = _json_line() if is_json else "usernsctl: {}".format
        self._table = refusals.Table(fd)
        os.close(fd)
        self._lock = threading.Lock()

    def refuse(self, text: str) -> None:
        with self._lock:
            is_new = self._table.add(text)
            is_last = is_new and self._table.is_full
        if is_new:
            self._print(f"refused {text}")
        if is_last:
            self._print(
                f"printed {refusals.MAX_TEXTS} different refusals; more refusals are only counted"
            )

    def _print(self, message: str) -> None:
        # Ignore errors, because standard error may be a pipe without a reader.
        with contextlib.suppress(OSError):
            print(self._line(shown(message)), file=sys.stderr, flush=True)


def _json_line() -> Callable[[str], str]:
    """Return a function that formats a message as a line of JSON."""
    # Import json only for a proxy that prints JSON, but before confine(), because a confined
    # process must not depend on files.
    import json

    def line(message: str) -> str:
        now = time.time()
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        members = {
            "time": f"{second}.{int(now % 1 * 1000):03}Z",
            "level": "notice",
            "program": "usernsctl",
            "message": message,
        }
        return json.dumps(members, ensure_ascii=False)

    return line


def _receive(handover: socket.socket, creator: int) -> list[int]:
    """Return the descriptors of the listening socket and the pipe, or [] if none were sent.

    :param handover: the Unix socket over which the creator sends the descriptors.
    :param creator: a pidfd of the creator. If the creator exits, a forked child may still keep the
        other end of `handover` open.
    """
    poll = select.poll()
    poll.register(handover, select.POLLIN)
    poll.register(creator, select.POLLIN)
    if all(fd == creator for fd, _ in poll.poll()):
        return []
    # Ignore ECONNRESET: the creator has closed the socket without reading this process's message.
    with contextlib.suppress(ConnectionError):
        return list(socket.recv_fds(handover, 1, 2)[1])
    return []


def main(words: list[str]) -> NoReturn:
    """Run the proxy until the network of its sandbox has been removed."""
    refusals_fd, handover_fd, creator = map(int, words[:3])
    rules = Rules(map(AllowedName.parse, sys.stdin.read().split()))
    # Close the file of rules on standard input: replace it by standard output, which is /dev/null.
    os.dup2(1, 0)
    # Keep the resolver from appending search domains to a name: the result would be a name that no
    # rule allows.
    os.environ["LOCALDOMAIN"] = "."
    os.environ["RES_OPTIONS"] = "ndots:1 timeout:3 attempts:2"
    threading.stack_size(_STACK)
    limits = Limits()
    log = _Log(refusals_fd, is_json=words[3] == "json")
    proxy = Proxy(rules, log.refuse, limits=limits)
    confinement.confine()
    handover = socket.socket(fileno=handover_fd)
    # Ignore an error, which means that the creator has closed the socket: _receive() then returns
    # no descriptors.
    with contextlib.suppress(ConnectionError):
        handover.sendall(READY)
    fds = _receive(handover, creator)
    handover.close()
    os.close(creator)
    if len(fds) == 2:
        serve(socket.socket(fileno=fds[0]), proxy, fds[1], limits.connections)
    # Exit without joining threads, which may still wait for the resolver.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
