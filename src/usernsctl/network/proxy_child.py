"""The process of a proxy: ``python -m usernsctl.network.proxy_child FD FD FD FORMAT NAME``.

:mod:`usernsctl.network.proxy_process` starts it. Standard input has the rules, one a line. The
descriptors are the table of refusals, a Unix socket and a pidfd of the creator. Over the socket the
process reports that it is ready, and receives the listening socket and a pipe, whose end ends the
process. FORMAT is that of the log on standard error, ``json`` or ``text``. NAME has no effect.
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
"""The message of the proxy over the Unix socket when it can take the listening socket."""

_STACK = 512 * 1024


class _Log:
    """A log that counts refusals, and prints each text once, up to the size of the table.

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
                f"further refusals are only counted, after {refusals.MAX_TEXTS} different ones"
            )

    def _print(self, message: str) -> None:
        # Standard error may be a pipe without a reader.
        with contextlib.suppress(OSError):
            print(self._line(shown(message)), file=sys.stderr, flush=True)


def _json_line() -> Callable[[str], str]:
    """Return a function that encodes a message as a line of JSON."""
    # Imported here, since few runs print JSON, and a confined process can't count on files.
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
    """Return the listening socket and the pipe, or nothing if the network was not made.

    :param creator: a pidfd: a fork of the creator may keep the other end of the Unix socket open.
    """
    poll = select.poll()
    poll.register(handover, select.POLLIN)
    poll.register(creator, select.POLLIN)
    if all(fd == creator for fd, _ in poll.poll()):
        return []
    # ECONNRESET: the creator has not read the byte of this process.
    with contextlib.suppress(ConnectionError):
        return list(socket.recv_fds(handover, 1, 2)[1])
    return []


def main(words: list[str]) -> NoReturn:
    """Run the proxy until the network of its sandbox ends."""
    refusals_fd, handover_fd, creator = map(int, words[:3])
    rules = Rules(map(AllowedName.parse, sys.stdin.read().split()))
    os.dup2(1, 0)  # /dev/null
    # A resolver that appends other domains to a name would ask for names that are not allowed.
    os.environ["LOCALDOMAIN"] = "."
    os.environ["RES_OPTIONS"] = "ndots:1 timeout:3 attempts:2"
    threading.stack_size(_STACK)
    limits = Limits()
    log = _Log(refusals_fd, is_json=words[3] == "json")
    proxy = Proxy(rules, log.refuse, limits=limits)
    confinement.confine()
    handover = socket.socket(fileno=handover_fd)
    handover.sendall(READY)
    fds = _receive(handover, creator)
    handover.close()
    os.close(creator)
    if len(fds) == 2:
        serve(socket.socket(fileno=fds[0]), proxy, fds[1], limits.connections)
    # Without waiting for threads, which may wait for a resolver.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
