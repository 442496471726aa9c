"""The process of a proxy: ``python -m usernsctl.network.proxy_child FD FD FD``.

:mod:`usernsctl.network.proxy_process` starts it. Standard input has the rules, one a line. The
descriptors are a Unix socket, over which the listening socket arrives; the table of refusals; and
one that becomes readable, or is hung up, when the proxy shall end, such as one of a process.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import threading

from usernsctl._lean import NoReturn
from usernsctl._text import say
from usernsctl.network import confinement, refusals
from usernsctl.network.names import AllowedName, Rules
from usernsctl.network.proxy import Limits, Proxy, serve

READY = b"r"
"""The message of the proxy over the Unix socket when it answers connections."""


class _Log:
    """Counts refusals, and prints each text once."""

    def __init__(self, fd: int) -> None:
        self._table = refusals.Table(fd)
        os.close(fd)
        self._lock = threading.Lock()

    def refuse(self, text: str) -> None:
        with self._lock:
            is_new = self._table.add(text)
        if is_new:
            # Standard error may be a pipe whose reader has gone.
            with contextlib.suppress(OSError):
                say(f"usernsctl: refused {text}")


def main(words: list[str]) -> NoReturn:
    """Run the proxy until it shall end."""
    handover_fd, refusals_fd, ended = map(int, words)
    for fd in (handover_fd, refusals_fd, ended):
        os.set_inheritable(fd, False)
    rules = Rules(map(AllowedName.parse, sys.stdin.read().split()))
    os.dup2(1, 0)  # /dev/null
    # A resolver that appends other domains to a name would ask for names that are not allowed.
    os.environ["LOCALDOMAIN"] = "."
    os.environ["RES_OPTIONS"] = "ndots:1 timeout:3 attempts:2"
    threading.stack_size(512 * 1024)
    limits = Limits()
    log = _Log(refusals_fd)
    confinement.confine()
    with socket.socket(fileno=handover_fd) as handover:
        listener = _receive_listener(handover, ended)
        if listener is None:
            os._exit(0)
        handover.sendall(READY)
    serve(listener, Proxy(rules, log.refuse, limits=limits), ended, limits.connections)
    # Without waiting for threads, which may wait for a resolver.
    os._exit(0)


def _receive_listener(handover: socket.socket, ended: int) -> socket.socket | None:
    """Return the listening socket; None if there will be none."""
    poll = select.poll()
    poll.register(handover, select.POLLIN)
    poll.register(ended, select.POLLIN)
    if any(fd == ended for fd, _ in poll.poll()):
        return None
    _, fds, _, _ = socket.recv_fds(handover, 1, 1)
    if not fds:
        return None
    return socket.socket(fileno=fds[0])


if __name__ == "__main__":
    main(sys.argv[1:])
