"""A forward proxy that connects its clients only to hosts with allowed names.

The proxy answers one request per connection, in a thread for each connection. The number of
simultaneous connections, the sizes of buffers and all waiting times are limited, so a client can't
exhaust the memory or the threads of the host. The rate of connections is not limited, and the
sandbox's CPU limit does not apply to the proxy.

Only TLS may pass through a tunnel (CONNECT), and the first TLS message must name the same host as
the request. Otherwise a tunnel to an allowed host would also reach other hosts at the same address,
as in a content delivery network.
"""

from __future__ import annotations

import select
import socket
import threading
import time

from usernsctl._lean import TYPE_CHECKING, dataclass
from usernsctl.network import addresses, client_hello, http_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from usernsctl.network.names import Rules

    Resolver = Callable[[str, int], "list[tuple[int, str]]"]

MAX_ADDRESSES = 16
"""Maximum number of addresses of a host to which the proxy tries to connect."""

_BLOCK = 64 * 1024
# Maximum number of bytes to read from a client after an error response; see _drain().
_MAX_DRAINED = 1024 * 1024
# Timeout for a connection to end while the maximum number of connections is in use, and delay
# before accept(2) is retried after an error, both in seconds.
_FULL_SECONDS = 0.2


class Refused(Exception):
    """Error for a connection that the rules do not allow. The message is the reason.

    :ivar status: the status code and reason phrase of the response.
    :ivar target: the host and the port; empty if the request can't be parsed.
    """

    def __init__(self, reason: str, status: str = "403 Forbidden", target: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.target = target


class Failed(Exception):
    """Error for a connection that is allowed but failed. The message is the reason.

    :ivar status: the status code and reason phrase of the response.
    """

    def __init__(self, reason: str, status: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a proxy.

    :ivar connections: the maximum number of simultaneous connections; additional connections wait.
    :ivar head_time: the timeout for the head of a request, and for the first TLS message, in
        seconds.
    :ivar connect_time: the timeout for a connection to a host, in seconds.
    :ivar idle_time: the time after which a connection without any transfer is closed, in seconds.
    """

    connections: int = 128
    head_time: float = 10
    connect_time: float = 30
    idle_time: float = 300


def resolve(name: str, port: int) -> list[tuple[int, str]]:
    """Return the addresses of a host, each as its family and its text.

    :raises OSError: the host has no address.
    """
    # Pass bytes, because getaddrinfo() would import a codec for a str.
    found = socket.getaddrinfo(name.encode("ascii"), port, type=socket.SOCK_STREAM)
    return [(family, str(address[0])) for family, _, _, _, address in found]


class Proxy:
    """A proxy that answers the requests of its clients.

    :param rules: the allowed names and ports.
    :param refuse: a function that is called with the target of each denied connection and the
        reason, as text; several threads may call it at the same time.
    """

    def __init__(
        self,
        rules: Rules,
        refuse: Callable[[str], None],
        *,
        limits: Limits | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        self._rules = rules
        self._refuse = refuse
        self._limits = limits or Limits()
        self._resolver = resolver

    def answer(self, client: socket.socket) -> None:
        """Answer the request on a client's connection, and close the connection."""
        with client:
            try:
                self._answer(client)
            except Refused as error:
                self._refuse(f"{error.target or 'a request'}: {error}")
                _send_error(client, error.status, str(error))
            except Failed as error:
                _send_error(client, error.status, str(error))
            except OSError:
                # Send no response: the client has closed the connection, or reads too slowly.
                pass

    def _answer(self, client: socket.socket) -> None:
        try:
            head, more = _read_head(client, time.monotonic() + self._limits.head_time)
            request = http_request.parse(head)
        except http_request.BadRequest as error:
            raise Refused(str(error), error.status) from None
        target = f"{request.name}:{request.port}"
        if not self._rules.allow(request.name, request.port):
            raise Refused("no --allow option allows this host and port", target=target)
        with self._connect(request.name, request.port, target) as server:
            if request.is_connect:
                self._tunnel(client, server, more, request.name, target)
            else:
                self._forward(client, server, more, request, target)

    def _connect(self, name: str, port: int, target: str) -> socket.socket:
        """Connect to a host at one of its allowed addresses; return the connection.

        The name is resolved only once, so that the address that was checked is also the address to
        which the proxy connects. Only the first :data:`MAX_ADDRESSES` addresses are tried.

        :raises Refused: no connection could be made, and at least one address is forbidden.
        :raises Failed: the name can't be resolved, or no address accepts the connection.
        """
        deadline = time.monotonic() + self._limits.connect_time
        try:
            found = self._resolver(name, port)
        except (OSError, UnicodeError) as error:
            raise Failed(f"{name} can't be resolved: {_why(error)}", "502 Bad Gateway") from None
        refusals = []
        failure = "the name has no address"
        for family, address in tuple(dict.fromkeys(found))[:MAX_ADDRESSES]:
            reason = addresses.refusal(family, address)
            if reason is None and addresses.is_own(family, address):
                reason = "an address of this machine"
            if reason is not None:
                refusals.append(f"{name} has {address}, {reason}")
                continue
            try:
                return _connect_to(family, address, port, deadline)
            except TimeoutError:
                failure = "no answer in time"
            except OSError as error:
                failure = f"{address}: {_why(error)}"
        if refusals:
            raise Refused(refusals[0], target=target)
        raise Failed(f"no connection to {target}: {failure}", "502 Bad Gateway")

    def _tunnel(
        self, client: socket.socket, server: socket.socket, more: bytes, name: str, target: str
    ) -> None:
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            hello = _read_hello(client, more, name, time.monotonic() + self._limits.head_time)
        except client_hello.NotAllowed as error:
            self._refuse(f"{target}: {error}")
            client.sendall(error.record())
            _drain(client)
            return
        _Relay(client, server, self._limits.idle_time).run(hello)

    def _forward(
        self,
        client: socket.socket,
        server: socket.socket,
        more: bytes,
        request: http_request.Request,
        target: str,
    ) -> None:
        body = (
            http_request.ChunkedBody()
            if request.length is None
            else http_request.SizedBody(request.length)
        )
        relay = _Relay(client, server, self._limits.idle_time, body)
        try:
            relay.run(request.head + body.feed(more))
        except http_request.BadRequest as error:
            # Send no error response, because the client may have received a part of a response.
            self._refuse(f"{target}: {error}")


class _Relay:
    """A relay of bytes between a client and a server.

    A tunnel ends when both the client and the server have sent end of file. Any other request ends
    when the server has sent end of file. At most one block is buffered for each direction.

    :param body: the parser of the request's body, or None for a tunnel.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        idle_time: float,
        body: http_request.SizedBody | http_request.ChunkedBody | None = None,
    ) -> None:
        self._client = client
        self._server = server
        self._idle_time = idle_time
        self._body = body
        # The bytes that must still be written to each socket.
        self._pending = {client: b"", server: b""}
        # The sockets from which no more bytes are read.
        self._ended: set[socket.socket] = set()
        # True if the server has closed its socket before it has read all bytes.
        self._is_cut = False

    def run(self, first: bytes) -> None:
        """Forward bytes until the relay ends, or until no bytes were transferred for the idle time.

        :param first: the first bytes to send to the server.
        :raises BadRequest: the body is malformed.
        """
        self._pending[self._server] = first
        self._client.setblocking(False)
        self._server.setblocking(False)
        while not self._is_over():
            poll = select.poll()
            by_fd = {}
            for sock, events in self._wanted().items():
                poll.register(sock, events)
                by_fd[sock.fileno()] = sock
            ready = poll.poll(self._idle_time * 1000)
            if not ready:
                return
            for fd, events in ready:
                if events & select.POLLOUT:
                    self._write(by_fd[fd])
                if events & ~select.POLLOUT:
                    self._read(by_fd[fd])
        if self._has_unread_bytes:
            _drain(self._client)

    @property
    def _has_unread_bytes(self) -> bool:
        """Return whether the relay has ended before the client has sent all bytes."""
        return self._is_cut or (self._body is not None and not self._body.is_complete)

    def _is_over(self) -> bool:
        if self._server not in self._ended or self._pending[self._client]:
            return False
        return self._body is not None or self._client in self._ended

    def _other(self, sock: socket.socket) -> socket.socket:
        return self._server if sock is self._client else self._client

    def _wanted(self) -> dict[socket.socket, int]:
        """Return for each socket the events of poll(2) to wait for; omit sockets without events."""
        wanted = {}
        for sock in (self._client, self._server):
            events = select.POLLOUT if self._pending[sock] else 0
            if sock not in self._ended and not self._pending[self._other(sock)]:
                events |= select.POLLIN
            if events:
                wanted[sock] = events
        return wanted

    def _read(self, sock: socket.socket) -> None:
        if sock in self._ended or self._pending[self._other(sock)]:
            return
        try:
            data = sock.recv(_BLOCK)
        except BlockingIOError:
            return
        if not data:
            self._end(sock)
        elif sock is self._client and self._body is not None:
            self._pending[self._server] = self._body.feed(data)
            if self._body.is_complete:
                # Read no more bytes from the client, because the proxy answers one request per
                # connection.
                self._ended.add(sock)
        else:
            self._pending[self._other(sock)] = data

    def _end(self, sock: socket.socket) -> None:
        """Record end of file from `sock`; in a tunnel, shut down the other socket for writing."""
        self._ended.add(sock)
        if self._body is None:
            self._other(sock).shutdown(socket.SHUT_WR)
        elif sock is self._client and not self._body.is_complete:
            raise ConnectionResetError

    def _write(self, sock: socket.socket) -> None:
        try:
            sent = sock.send(self._pending[sock])
        except BlockingIOError:
            return
        except ConnectionError:
            if sock is self._client:
                raise
            # The server has closed its socket. Continue to forward the end of the server's answer.
            self._pending[sock] = b""
            self._ended.add(self._client)
            self._is_cut = True
            return
        self._pending[sock] = self._pending[sock][sent:]


def _connect_to(family: int, address: str, port: int, deadline: float) -> socket.socket:
    server = socket.socket(family, socket.SOCK_STREAM)
    try:
        server.settimeout(_remaining(deadline))
        server.connect((address, port))
    except BaseException:
        server.close()
        raise
    return server


def _read_head(client: socket.socket, deadline: float) -> tuple[bytes, bytes]:
    """Return the head of a request, up to the empty line, and bytes received after the head."""
    head = b""
    while True:
        head += _receive(client, deadline, "the request did not come in time")
        end = head.find(b"\r\n\r\n") + 4
        if end >= 4 and end <= http_request.MAX_HEAD:
            return head[:end], head[end:]
        if head.count(b"\n") != head.count(b"\r\n"):
            raise http_request.BadRequest("a line of the request does not end with CR LF")
        if len(head) > http_request.MAX_HEAD:
            raise http_request.BadRequest(
                f"the request's head has more than {http_request.MAX_HEAD} bytes",
                "431 Request Header Fields Too Large",
            )


def _read_hello(client: socket.socket, received: bytes, name: str, deadline: float) -> bytes:
    """Read the first TLS message of a client; check that its server name is `name`.

    :returns: all bytes received so far.
    :raises NotAllowed: the message is not for the host `name`, or the client does not speak TLS.
    """
    while True:
        asked = client_hello.server_name(received)
        if asked is not None:
            break
        try:
            received += _receive(client, deadline, "no ClientHello came in time")
        except Failed as error:
            raise client_hello.NotAllowed(str(error), None) from None
    if asked.lower() != name:
        raise client_hello.NotAllowed(
            f"the server name (SNI) is {asked[:80]!r}", client_hello.UNRECOGNIZED_NAME
        )
    return received


def _receive(client: socket.socket, deadline: float, late: str) -> bytes:
    try:
        client.settimeout(_remaining(deadline))
        data = client.recv(_BLOCK)
    except TimeoutError:
        raise Failed(late, "408 Request Timeout") from None
    if not data:
        raise ConnectionResetError
    return data


def _remaining(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _send_error(client: socket.socket, status: str, reason: str) -> None:
    """Send an error response, and then read and discard the rest of the request.

    If the proxy closed a connection with unread bytes, the kernel would reset the connection, and
    the client could lose the response.
    """
    text = f"usernsctl: {reason}\n".encode("ascii", "backslashreplace")
    try:
        client.settimeout(1)
        client.sendall(
            b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%s" % (status.encode("ascii"), len(text), text)
        )
        _drain(client)
    except OSError:
        pass


def _drain(client: socket.socket) -> None:
    """Read and discard bytes until the client sends end of file; stop after 1 MiB or 1 second."""
    deadline = time.monotonic() + 1
    client.shutdown(socket.SHUT_WR)
    left = _MAX_DRAINED
    while left > 0:
        client.settimeout(_remaining(deadline))
        data = client.recv(_BLOCK)
        if not data:
            return
        left -= len(data)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def serve(listener: socket.socket, proxy: Proxy, ended: int, connections: int) -> None:
    """Accept connections, and answer their requests, until `ended` is readable or hung up.

    :param listener: the listening socket.
    :param ended: a descriptor, for example a pidfd or the read end of a pipe.
    :param connections: the maximum number of simultaneous connections; additional connections wait.
    """
    free = threading.Semaphore(connections)

    def answer(client: socket.socket) -> None:
        try:
            proxy.answer(client)
        finally:
            free.release()

    listener.setblocking(False)
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    poll.register(ended, select.POLLIN)
    while all(fd != ended for fd, _ in poll.poll()):
        # Wait with a timeout, so that the proxy can exit while all connections are in use.
        if not free.acquire(timeout=_FULL_SECONDS):
            continue
        try:
            client, _ = listener.accept()
        except OSError:
            # Try again later: the client has closed the connection, or descriptors or memory are
            # lacking.
            free.release()
            time.sleep(_FULL_SECONDS)
            continue
        try:
            threading.Thread(target=answer, args=(client,), daemon=True).start()
        except RuntimeError:
            # Close the client's connection, because a limit prevents starting a thread for it.
            client.close()
            free.release()
