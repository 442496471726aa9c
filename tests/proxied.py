"""Proxy for allowed names in a virtual network, and servers that the proxy can reach."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from network_world import PUBLIC, NameServer, World

from usernsctl.network.names import parse_rules
from usernsctl.network.proxy_process import ProxyProcess

PORT = 3128
SECONDS = 30

# Program that fetches each URL in its arguments, and prints the page's status and text, or the
# error.
FETCH = """
import sys, urllib.error, urllib.request
for url in sys.argv[1:]:
    try:
        with urllib.request.urlopen(url, timeout=30) as page:
            print(page.status, page.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
    except OSError as error:
        print(error)
"""


class Server:
    """Server on the simulated internet that records the bytes that it receives, and answers them.

    :ivar received: the bytes that each client has sent, in the order of the connections.
    :ivar pages: pages by path, for servers that serve pages.
    """

    def __init__(
        self,
        world: World,
        host: str = PUBLIC,
        port: int = 80,
        *,
        where: str = "internet",
        answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        serve: Callable[[Server, socket.socket, bytearray], None] | None = None,
    ) -> None:
        self.received: list[bytearray] = []
        self.pages: dict[str, bytes] = {}
        self.answer = answer
        self._listener = world.listen(where, host, port)
        self._serve = serve or Server.serve_http
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
        self._listener.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(SECONDS)
            self.received.append(bytearray())
            thread = threading.Thread(target=self._connected, args=(connection, self.received[-1]))
            self._threads.append(thread)
            thread.start()

    def _connected(self, connection: socket.socket, received: bytearray) -> None:
        with connection, contextlib.suppress(OSError):
            self._serve(self, connection, received)

    def serve_http(self, connection: socket.socket, received: bytearray) -> None:
        """Respond to the first request; then read until end of file to record other requests."""
        while b"\r\n\r\n" not in received:
            data = connection.recv(65536)
            if not data:
                return
            received += data
        connection.sendall(self.answer)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            received += data

    def serve_echo(self, connection: socket.socket, received: bytearray) -> None:
        """Echo all received bytes."""
        while data := connection.recv(65536):
            received += data
            connection.sendall(data)


class Proxied:
    """Proxy process on the simulated host; its listening socket is in the sandbox's namespace."""

    def __init__(self, world: World, *rules: str, names: NameServer, port: int = PORT) -> None:
        self.world = world
        self.port = port
        self.names = names
        self._commands, theirs = socket.socketpair()
        with theirs, world.listen("sandbox", "127.0.0.1", port) as listener:
            self.log = os.memfd_create("log")
            os.set_inheritable(self.log, True)
            # The proxy's parent imports modules of the tests, so pass it this process's module
            # search path.
            self._pid = world.start(
                "machine",
                [sys.executable, __file__, "{3}", *rules],
                [theirs.fileno(), theirs.fileno(), self.log, listener.fileno()],
                PYTHONPATH=":".join(sys.path),
            )
        self._lines = self._commands.makefile("r")
        self.proxy_pid = json.loads(self._lines.readline())["pid"]

    def report(self) -> dict[str, Any]:
        """Return the number of denied requests, and the error messages with their counts."""
        self._commands.sendall(b"?\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        return answer

    def refused(self) -> list[str]:
        """Return the error messages of the denied requests."""
        return [text for text, _ in self.report()["refusals"]]

    def close(self) -> None:
        self._lines.close()
        self._commands.close()
        assert self.world.wait(self._pid) in (0, -signal.SIGKILL)
        os.close(self.log)

    def interrupt(self) -> None:
        """Send SIGINT to the process group of the proxy's parent, as a terminal does for Ctrl-C."""
        os.killpg(self.process_group(), signal.SIGINT)

    def process_group(self) -> int:
        """Return the process group id of the proxy's parent."""
        return os.getpgid(self._pid)

    def kill(self) -> None:
        """Kill the proxy's parent."""
        os.kill(self._pid, signal.SIGKILL)

    def connect(self) -> socket.socket:
        """Connect from the sandbox to the proxy; return the connection."""
        client = self.world.connect("sandbox", "127.0.0.1", self.port)
        client.settimeout(SECONDS)
        return client

    def send(self, request: bytes) -> bytes:
        """Send a request to the proxy; return the whole response."""
        with self.connect() as client:
            client.sendall(request)
            return read_all(client)

    def get(self, url: str, *fields: str, host: str | None = None) -> bytes:
        """Send a GET request to the proxy; return the whole response."""
        host = url.split("/")[2] if host is None else host
        head = "\r\n".join([f"GET {url} HTTP/1.1", f"Host: {host}", *fields, "", ""])
        return self.send(head.encode("latin-1"))

    @contextlib.contextmanager
    def tunnel(self, target: str) -> Iterator[socket.socket]:
        """Open a tunnel through the proxy to `target`; yield the connection after status 200."""
        with self.connect() as client:
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                data = client.recv(1)
                assert data, answer
                answer += data
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            yield client


def read_all(client: socket.socket) -> bytes:
    """Read from a connection until end of file or a reset; return the bytes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def status(answer: bytes) -> int:
    """Return the status code of an HTTP response."""
    return int(answer.split(b" ", 2)[1])


def client_hello(name: str | None) -> bytes:
    """Return a TLS client's first message (ClientHello), with `name` as the server name."""
    context = ssl.create_default_context()
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def _main(listener: int, rules: Sequence[str]) -> None:
    """Run a proxy; for each line of standard input, print a report of denied requests."""
    # The test sends SIGINT to this new process group, which includes the proxy. The proxy must
    # survive by its own means: execve(2) resets this process's handler of SIGINT, but would keep an
    # ignored SIGINT ignored.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, lambda *_: None)
    proxy = ProxyProcess(parse_rules(rules), log=None)
    try:
        proxy.wait_ready()
        ended, _life = os.pipe()
        socket.send_fds(proxy.handover, [b"+"], [listener, ended])
        proxy.handover.close()
        os.close(listener)
        os.close(ended)
        print(json.dumps({"pid": proxy.pid}), flush=True)
        for _ in sys.stdin:
            listed = [[each.text, each.count] for each in proxy.refusals()]
            print(json.dumps({"denied": proxy.denied, "refusals": listed}), flush=True)
    finally:
        proxy.close()


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
