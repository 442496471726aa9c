"""Tests of the proxy's relay between a client and a server."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

from usernsctl.network.http_request import SizedBody
from usernsctl.network.proxy import _Relay

ANSWER = b"HTTP/1.1 413 Content Too Large\r\n\r\n"


def connected(opened: contextlib.ExitStack) -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = opened.enter_context(socket.create_connection(listener.getsockname()))
        theirs = opened.enter_context(listener.accept()[0])
    return ours, theirs


def test_answer_of_a_server_that_has_not_read_the_whole_body_is_forwarded() -> None:
    with contextlib.ExitStack() as opened:
        client, to_client = connected(opened)
        to_server, server = connected(opened)
        client.settimeout(30)
        to_server.sendall(b"a" * 10)
        assert server.recv(1) == b"a"
        server.sendall(ANSWER)
        server.close()
        # Wait for the reset, which the kernel sends because the server has left bytes unread.
        poll = select.poll()
        poll.register(to_server, 0)
        assert poll.poll(30_000)
        client.sendall(b"b" * 100)
        relay = _Relay(to_client, to_server, 30, SizedBody(1000))
        thread = threading.Thread(target=relay.run, args=[b"POST / HTTP/1.1\r\n\r\n"])
        thread.start()
        assert client.makefile("rb").read() == ANSWER
        client.close()
        thread.join(30)
        assert not thread.is_alive()
