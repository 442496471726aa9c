"""Attempts to reach hosts other than those that --allow names, over real sockets."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import (
    MACHINE,
    MACHINE_ANY,
    MACHINE_ANY6,
    MACHINE_BROADCAST,
    MACHINE_SECONDARY,
    NAME_SERVER,
    OTHER_PUBLIC,
    PRIVATE,
    PRIVATE6,
    PUBLIC,
    PUBLIC6,
    NameServer,
    World,
    made,
)
from processes import status_of
from proxied import SECONDS, Proxied, Server, client_hello, read_all, status

from usernsctl.network.names import Rules, parse_rules
from usernsctl.network.proxy import MAX_ADDRESSES, Limits, Proxy
from usernsctl.network.refusals import MAX_TEXTS

RULES = ("good.example", "*.wild.example", "six.example", "other.example:8080", "hosts.example")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def names(world: World) -> Iterator[NameServer]:
    names = NameServer(world)
    yield names
    names.close()


@pytest.fixture(scope="module")
def shared(world: World, names: NameServer) -> Iterator[Proxied]:
    proxied = Proxied(world, *RULES, names=names)
    yield proxied
    proxied.close()


@pytest.fixture
def proxied(shared: Proxied) -> Proxied:
    shared.names.names = {
        "good.example": [PUBLIC],
        "a.wild.example": [PUBLIC],
        "six.example": [PUBLIC6],
        "other.example": [PUBLIC],
        "evil.example": [OTHER_PUBLIC],
    }
    shared.names.asked.clear()
    return shared


def test_an_allowed_name_is_reached(proxied: Proxied) -> None:
    with Server(proxied.world) as server:
        assert proxied.get("http://good.example/a").endswith(b"\r\n\r\nok")
    assert bytes(server.received[0]) == (
        b"GET /a HTTP/1.1\r\nHost: good.example\r\nConnection: close\r\n\r\n"
    )
    assert set(proxied.names.asked) == {"good.example"}


def test_an_ipv6_address_is_reached(proxied: Proxied) -> None:
    with Server(proxied.world, PUBLIC6) as server:
        assert status(proxied.get("http://six.example/")) == 200
    assert len(server.received) == 1


def test_a_wildcard_reaches_names_below(proxied: Proxied) -> None:
    with Server(proxied.world):
        assert status(proxied.get("http://a.wild.example/")) == 200
        assert status(proxied.get("http://wild.example/")) == 403


@pytest.mark.parametrize(
    ("host", "port"),
    [(PUBLIC, 80), (NAME_SERVER, 53), (MACHINE, 80), ("169.254.169.254", 80), (PUBLIC6, 80)],
)
def test_sandboxes_can_not_bypass_the_proxy(proxied: Proxied, host: str, port: int) -> None:
    with pytest.raises(OSError, match="unreachable") as caught:
        proxied.world.connect("sandbox", host, port)
    assert caught.value.errno == errno.ENETUNREACH


def test_services_of_the_machine_are_not_in_the_sandbox(proxied: Proxied) -> None:
    with (
        Server(proxied.world, "0.0.0.0", 8000, where="machine") as server,
        pytest.raises(ConnectionRefusedError),
    ):
        proxied.world.connect("sandbox", "127.0.0.1", 8000)
    assert server.received == []


def test_a_name_that_is_not_allowed_is_not_resolved(proxied: Proxied) -> None:
    """Check that denied names are not resolved, since queries can carry data (DNS tunnels)."""
    before = proxied.report()["denied"]
    for name in ("c2VjcmV0.tunnel.evil.example", "good.example.evil.example", "evil.example"):
        assert status(proxied.get(f"http://{name}/")) == 403
        request = f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n"
        assert status(proxied.send(request.encode())) == 403
    assert proxied.names.asked == []
    assert proxied.report()["denied"] == before + 6
    assert "evil.example:443: no --allow option allows this host and port" in proxied.refused()


def test_a_missing_name_is_not_searched_in_other_domains(proxied: Proxied) -> None:
    proxied.names.names = {"good.example.search.example": [PUBLIC]}
    answer = proxied.get("http://good.example/")
    assert status(answer) == 502
    assert b"good.example can't be resolved" in answer
    assert set(proxied.names.asked) == {"good.example"}


def test_another_port_of_an_allowed_name_is_denied(proxied: Proxied) -> None:
    with Server(proxied.world, PUBLIC, 22) as ssh, Server(proxied.world, PUBLIC, 8080) as web:
        assert status(proxied.get("http://good.example:22/")) == 403
        assert status(proxied.get("http://other.example/")) == 403
        assert status(proxied.get("http://other.example:8080/")) == 200
    assert ssh.received == []
    assert web.received[0].startswith(b"GET / HTTP/1.1\r\nHost: other.example:8080\r\n")


INTERNAL = (
    *PRIVATE,
    *PRIVATE6,
    "127.0.0.1",
    "127.255.0.1",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.5",
    "::ffff:93.184.215.14",
    "2002:7f00:1::",
    "fe80::1",
    "224.0.0.1",
    "255.255.255.255",
    "93.184.216.1",
    MACHINE,
    MACHINE_SECONDARY,
    MACHINE_ANY,
    MACHINE_ANY6,
    MACHINE_BROADCAST,
    "2606:2801::2",
)


@pytest.mark.parametrize("address", INTERNAL)
def test_an_allowed_name_does_not_lead_to_an_internal_address(
    proxied: Proxied, address: str
) -> None:
    proxied.names.names["good.example"] = [address]
    everywhere = "::" if ":" in address else "0.0.0.0"
    where = "internet" if address in (*PRIVATE, *PRIVATE6) else "machine"
    with Server(proxied.world, everywhere, 80, where=where) as server:
        answer = proxied.get("http://good.example/")
        tunnel = proxied.send(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n")
    assert status(answer) == 403
    assert address.encode() in answer
    assert status(tunnel) == 403
    assert server.received == []


def test_a_name_in_the_machines_hosts_file_does_not_lead_to_it(proxied: Proxied) -> None:
    with Server(proxied.world, "0.0.0.0", 80, where="machine") as server:
        answer = proxied.get("http://hosts.example/")
    assert status(answer) == 403
    assert b"127.0.0.1, a loopback address" in answer
    assert server.received == []


def test_a_name_that_changes_its_address_is_checked_for_each_connection(proxied: Proxied) -> None:
    """Check that the proxy denies a name whose address has become internal (DNS rebinding)."""
    answers = iter(([PUBLIC], ["169.254.169.254"]))
    asked: list[list[str]] = []

    def rebind() -> list[str]:
        # Change the answer only for every second query: each name resolution makes an IPv4 and an
        # IPv6 query.
        asked.append(next(answers) if len(asked) % 2 == 0 else asked[-1])
        return asked[-1]

    proxied.names.names["good.example"] = rebind
    with (
        Server(proxied.world) as public,
        Server(proxied.world, "169.254.169.254", 80) as metadata,
    ):
        assert status(proxied.get("http://good.example/")) == 200
        assert status(proxied.get("http://good.example/")) == 403
    assert len(asked) == 4
    assert len(public.received) == 1
    assert metadata.received == []


def test_internal_addresses_beside_public_ones_are_not_tried(proxied: Proxied) -> None:
    proxied.names.names["good.example"] = ["169.254.169.254", "127.0.0.1", PUBLIC]
    with (
        Server(proxied.world) as public,
        Server(proxied.world, "169.254.169.254", 80) as metadata,
    ):
        assert status(proxied.get("http://good.example/")) == 200
    assert len(public.received) == 1
    assert metadata.received == []
    # There is no server at the public address, but the proxy must not fall back to internal
    # addresses.
    with Server(proxied.world, "169.254.169.254", 80) as metadata:
        assert status(proxied.get("http://good.example/")) == 403
    assert metadata.received == []


@pytest.mark.parametrize(
    "host",
    [
        PUBLIC,
        f"[{PUBLIC6}]",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "%31%32%37.0.0.1",
        "localhost",
        "127.0.0.1:3128",
        "user@127.0.0.1",
        "good.example@127.0.0.1",
        "good.example%00.evil.example",
        "good.example%2eevil.example",
        "good.example\\.evil.example",
        "xn--good.example",
        "①②⑦.0.0.1",
    ],
)
def test_other_spellings_of_a_host_are_denied(proxied: Proxied, host: str) -> None:
    with Server(proxied.world, "0.0.0.0", 80, where="machine") as server:
        encoded = host.encode().decode("latin-1")
        plain = proxied.get(f"http://{encoded}/", host="good.example")
        same = proxied.get(f"http://{encoded}/", host=encoded)
        request = f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n\r\n"
        tunnel = proxied.send(request.encode())
    assert {status(plain), status(same), status(tunnel)} <= {400, 403}
    assert server.received == []
    assert proxied.names.asked == []


def test_the_proxy_does_not_lead_to_itself(proxied: Proxied) -> None:
    for target in ("127.0.0.1:3128", "localhost:3128"):
        assert status(proxied.get(f"http://{target}/")) in (400, 403)
    assert status(proxied.send(b"GET / HTTP/1.1\r\nHost: 127.0.0.1:3128\r\n\r\n")) == 400


def test_a_redirect_is_the_clients_next_request(proxied: Proxied) -> None:
    metadata = "http://169.254.169.254/latest/meta-data/"
    answer = f"HTTP/1.1 302 Found\r\nLocation: {metadata}\r\nContent-Length: 0\r\n\r\n"
    with (
        Server(proxied.world, answer=answer.encode()),
        Server(proxied.world, "169.254.169.254", 80) as secret,
    ):
        assert metadata.encode() in proxied.get("http://good.example/")
        assert status(proxied.get(metadata)) == 400
    assert secret.received == []


EVIL = "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
POST = "POST http://good.example/ HTTP/1.1\r\nHost: good.example\r\n"


@pytest.mark.parametrize(
    "request_text",
    [
        # Requests with invalid or contradictory body lengths.
        POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
        POST + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + EVIL,
        POST + "Content-Length: 0\r\nContent-Length: 50\r\n\r\n" + EVIL,
        POST + "Content-Length: 0, 50\r\n\r\n" + EVIL,
        POST + "Content-Length: +50\r\n\r\n" + EVIL,
        POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + EVIL,
        POST + "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + EVIL,
        POST + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + EVIL,
        POST + "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + EVIL,
        POST + "Connection: content-length\r\nContent-Length: 5\r\n\r\n" + EVIL,
        # Requests with lines that different parsers read differently.
        POST.replace("\r\n", "\n") + "\n" + EVIL,
        POST + "X: y\nHost: evil.example\r\n\r\n",
        POST + "X: y\rHost: evil.example\r\n\r\n",
        POST + " Host: evil.example\r\n\r\n",
        POST + "X: y\r\n\tfolded: z\r\n\r\n",
        POST + "X: y\0z\r\n\r\n",
        # Requests with two host names, or an unusual request line.
        POST + "Host: evil.example\r\n\r\n",
        POST + "Host: good.example\r\n\r\n",
        "GET http://good.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
        "GET http://good.example@evil.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n",
        "GET http://good.example HTTP/1.1 HTTP/1.1\r\nHost: good.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n",
        "\r\n" + EVIL,
        # Requests of other protocols.
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x05\x01\x00\x03\x0cevil.example\x00\x50\r\n\r\n",
        "GET http://good.example/\r\n\r\n",
    ],
)
def test_ambiguous_requests_reach_no_server(proxied: Proxied, request_text: str) -> None:
    with Server(proxied.world) as good, Server(proxied.world, OTHER_PUBLIC) as evil:
        answer = proxied.send(request_text.encode("latin-1"))
    assert status(answer) in (400, 403, 501, 505)
    assert b"usernsctl: " in answer
    assert good.received == []
    assert evil.received == []


@pytest.mark.parametrize(
    "body",
    [
        "5;a=b\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "0\r\nHost: evil.example\r\n\r\n",
        "fffffffffffffffff\r\n",
    ],
)
def test_an_ambiguous_chunk_ends_the_request(proxied: Proxied, body: str) -> None:
    with Server(proxied.world) as good, proxied.connect() as client:
        client.sendall(f"{POST}Transfer-Encoding: chunked\r\n\r\n{body}{EVIL}".encode())
        read_all(client)
    for received in good.received:
        assert b"evil" not in received
        assert b"0\r\n\r\n" not in received


@pytest.mark.parametrize("size", ["Content-Length: 3\r\n\r\nabc", "\r\n"])
def test_a_second_request_on_a_connection_is_not_served(proxied: Proxied, size: str) -> None:
    """Check that no second request on a connection is served, pipelined or after the response."""
    with (
        Server(proxied.world) as good,
        Server(proxied.world, OTHER_PUBLIC) as evil,
        proxied.connect() as client,
    ):
        client.sendall((POST + size + EVIL).encode())
        assert status(read_all(client)) == 200
        with contextlib.suppress(OSError):
            # sendall() fails if the proxy has already closed the connection.
            client.sendall(EVIL.encode())
    assert evil.received == []
    assert len(good.received) == 1
    assert b"evil" not in good.received[0]


def test_an_upgraded_connection_is_no_tunnel(proxied: Proxied) -> None:
    """Check that no tunnel opens if a hostile server responds with status 101."""
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    with Server(proxied.world, answer=answer) as good, proxied.connect() as client:
        client.sendall(
            b"GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\n"
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c, websocket\r\n"
            b"HTTP2-Settings: x\r\nSec-WebSocket-Key: x\r\n\r\nraw bytes"
        )
        assert status(read_all(client)) == 101
    assert b"pgrade" not in good.received[0]
    assert b"ettings" not in good.received[0]
    assert b"raw bytes" not in good.received[0]


def test_a_tunnel_carries_tls_for_its_name(proxied: Proxied) -> None:
    hello = client_hello("good.example")
    with (
        Server(proxied.world, port=443, serve=Server.serve_echo) as server,
        proxied.tunnel("good.example:443") as client,
    ):
        client.sendall(hello)
        client.sendall(b"what follows")
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == hello + b"what follows"
    assert bytes(server.received[0]) == hello + b"what follows"


def test_a_first_message_may_come_in_pieces(proxied: Proxied) -> None:
    hello = client_hello("GOOD.example")
    message = hello[5:]
    fragments = [message[at : at + 200] for at in range(0, len(message), 200)]
    records = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in fragments)
    with (
        Server(proxied.world, port=443, serve=Server.serve_echo) as server,
        proxied.tunnel("good.example:443") as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(records), 50):
            client.sendall(records[at : at + 50])
        client.shutdown(socket.SHUT_WR)
        assert read_all(client) == records
    assert bytes(server.received[0]) == records


def fragmented(name: str) -> bytes:
    """Return a ClientHello that is split into two TLS records within the server name."""
    message = client_hello(name)[5:]
    cut = message.index(name.encode()) + 3
    return b"".join(
        b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in (message[:cut], message[cut:])
    )


def with_extension(name: str, kind: int) -> bytes:
    """Return a ClientHello with an extension of type `kind` in place of session_ticket."""
    hello = client_hello(name)
    ticket = hello.index(b"\x00\x23\x00\x00")
    return hello[:ticket] + kind.to_bytes(2) + hello[ticket + 2 :]


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (client_hello("evil.example"), "the server name (SNI) is 'evil.example'"),
        (fragmented("evil.example"), "the server name (SNI) is 'evil.example'"),
        (client_hello("a.good.example"), "the server name (SNI) is 'a.good.example'"),
        (client_hello("good.example."), "the server name (SNI) is 'good.example.'"),
        (
            client_hello("good.exampleX").replace(b"good.exampleX", b"good.example\0"),
            r"the server name (SNI) is 'good.example\x00'",
        ),
        (b"\x15\x03\x01\0\x02\x01\0" + client_hello("good.example"), "does not speak TLS"),
        (client_hello(None), "no server name"),
        (with_extension("good.example", 0xFE0D), "Encrypted Client Hello"),
        (with_extension("good.example", 0x0000), "an extension twice"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "does not speak TLS"),
        (b"SSH-2.0-OpenSSH_10.0\r\n", "does not speak TLS"),
        (b"\x16\x03\x01\x00\x00", "a TLS record has an invalid length"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "longer than"),
    ],
)
def test_a_tunnel_carries_tls_to_its_name_only(proxied: Proxied, first: bytes, reason: str) -> None:
    """Check that a tunnel for one name can't carry TLS for another name at the same address."""
    before = proxied.report()["denied"]
    with (
        Server(proxied.world, port=443, serve=Server.serve_echo) as server,
        proxied.tunnel("good.example:443") as client,
    ):
        client.sendall(first)
        alert = read_all(client)
    assert alert == b"" or alert.startswith(b"\x15\x03\x01\x00\x02\x02")
    # A connection that the server has not yet accepted is not in the list, so check only that no
    # bytes were received.
    assert not any(server.received)
    assert proxied.report()["denied"] == before + 1
    assert any(reason in text for text in proxied.refused())


def test_a_request_after_a_refused_one_is_not_read(proxied: Proxied) -> None:
    with Server(proxied.world) as good:
        answer = proxied.send((EVIL + EVIL.replace("evil", "good")).encode())
    assert status(answer) == 403
    assert answer.count(b"HTTP/1.1 ") == 1
    assert good.received == []


def test_a_huge_head_is_refused(proxied: Proxied) -> None:
    with proxied.connect() as client, pytest.raises(ConnectionError):
        client.sendall(b"GET http://good.example/ HTTP/1.1\r\nX: " + b"y" * 50_000_000)
    assert "a request: the request's head has more than 32768 bytes" in proxied.refused()
    assert status(proxied.get("http://good.example/", *["X: y"] * 200)) == 431
    assert status(proxied.get(f"http://good.example/{'a' * 40000}")) == 431
    assert proxied.names.asked == []


def test_an_answer_without_an_end_does_not_fill_the_memory(proxied: Proxied) -> None:
    """Check that the proxy stops reading from a server if the client does not read the response."""
    sent = []
    is_blocked = threading.Event()

    def flood(_: Server, connection: socket.socket, received: bytearray) -> None:
        connection.settimeout(1)
        try:
            while sum(sent) < 1 << 28:
                sent.append(connection.send(bytes(1 << 20)))
        finally:
            is_blocked.set()

    with Server(proxied.world, serve=flood), proxied.connect() as client:
        client.sendall(EVIL.replace("evil", "good").encode())
        assert is_blocked.wait(SECONDS)
    assert sum(sent) < 1 << 28


def test_a_client_that_disconnects_leaves_nothing_in_the_proxy(proxied: Proxied) -> None:
    with Server(proxied.world, port=443, serve=Server.serve_echo) as server:
        for _ in range(20):
            with proxied.tunnel("good.example:443") as client:
                client.sendall(client_hello("good.example"))
                client.recv(1)
        # The end of the `with` block waits until the server has recorded all connections.
    assert len(server.received) == 20


@pytest.fixture
def own(world: World, names: NameServer, shared: Proxied) -> Iterator[Proxied]:
    """Yield a separate proxy for one test, on a port other than that of the shared proxy."""
    own = Proxied(world, "good.example", names=names, port=3129)
    names.names = {"good.example": [PUBLIC]}
    yield own
    own.close()


def test_slow_clients_are_cut_off(own: Proxied) -> None:
    """Check that slow clients that use up all connections of the proxy are disconnected."""
    with (
        Server(own.world, port=443, serve=Server.serve_echo) as tls,
        Server(own.world) as good,
        contextlib.ExitStack() as stack,
    ):
        slow = [stack.enter_context(own.connect()) for _ in range(Limits().connections)]
        tunnel = slow.pop()
        tunnel.sendall(b"CONNECT good.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n")
        assert tunnel.recv(65536).startswith(b"HTTP/1.1 200 ")
        tunnel.sendall(b"\x16\x03\x01")
        while own.report()["denied"] == 0:
            for client in slow:
                with contextlib.suppress(OSError):
                    client.sendall(b"G")
            time.sleep(0.2)
        assert own.refused() == ["good.example:443: no ClientHello came in time"]
        # A slow client was disconnected, so the proxy has a free connection for the next client.
        assert status(own.get("http://good.example/")) == 200
        assert {read_all(client)[:12] for client in slow} <= {b"HTTP/1.1 408", b""}
    assert [bytes(received) for received in tls.received] == [b""]
    assert len(good.received) == 1


@pytest.mark.thorough
def test_ten_thousand_connections_leave_the_proxy_small(own: Proxied) -> None:
    most_threads = 0
    for _ in range(100):
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                client = stack.enter_context(own.connect())
                client.sendall(b"GET http://good.example/ HTTP/1.1\r\n")
            most_threads = max(most_threads, int(status_of(own.proxy_pid)["Threads"]))
    with Server(own.world):
        assert status(own.get("http://good.example/")) == 200
    assert most_threads <= Limits().connections + 1
    assert int(status_of(own.proxy_pid)["VmRSS"].split()[0]) < 64 * 1024


def test_the_proxy_has_no_privileges(own: Proxied) -> None:
    own_status = status_of(own.proxy_pid)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(own_status[kind], 16) == 0
    assert own_status["NoNewPrivs"] == "1"
    assert own_status["Seccomp"] == "2"
    assert Path(f"/proc/{own.proxy_pid}/environ").read_bytes() == b""
    # Check that the proxy is PID 1 of its own PID namespace.
    assert own_status["NSpid"].split()[-1] == "1"


def test_the_proxy_ends_with_its_parent(own: Proxied) -> None:
    pidfd = os.pidfd_open(own.proxy_pid)
    try:
        own.kill()
        assert select.select([pidfd], [], [], SECONDS)[0]
    finally:
        os.close(pidfd)


def test_an_interrupt_of_the_terminal_leaves_the_proxy(own: Proxied) -> None:
    """Check that Ctrl-C does not kill the proxy: a command that handles SIGINT needs the proxy."""
    # The proxy handles SIGINT, so the kernel delivers the signal although the proxy is PID 1 of its
    # PID namespace.
    own.interrupt()
    with Server(own.world):
        assert status(own.get("http://good.example/")) == 200
    assert os.getpgid(own.proxy_pid) != own.process_group()


def test_refusals_are_logged_once_and_as_plain_text(own: Proxied) -> None:
    for _ in range(3):
        own.send(b"GET http://\x1b[2J.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
        own.send(b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    with (
        Server(own.world, port=443, serve=Server.serve_echo),
        own.tunnel("good.example:443") as client,
    ):
        client.sendall(client_hello_with(b"\x1b]0;x\x07.example"))
        read_all(client)
    assert own.report()["denied"] == 7
    lines = os.pread(own.log, 65536, 0).decode("ascii").splitlines()
    assert lines == [
        "usernsctl: refused a request: the target is malformed",
        "usernsctl: refused evil.example:443: no --allow option allows this host and port",
        "usernsctl: refused good.example:443: the server name (SNI) is '\\x1b]0;x\\x07.example'",
    ]


def test_a_client_cannot_flood_the_log_with_refusals(own: Proxied) -> None:
    for number in range(MAX_TEXTS + 5):
        name = f"{number}.evil.example:443"
        own.send(f"CONNECT {name} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
    assert own.report()["denied"] == MAX_TEXTS + 5
    lines = os.pread(own.log, 1 << 20, 0).decode("ascii").splitlines()
    assert len(lines) == MAX_TEXTS + 1
    assert lines[-1] == "usernsctl: printed 255 different refusals; more refusals are only counted"


def test_only_some_addresses_of_a_name_are_tried() -> None:
    internal = [f"10.0.1.{number}" for number in range(20)]
    asked: list[tuple[str, int]] = []

    def resolve(name: str, port: int) -> list[tuple[int, str]]:
        asked.append((name, port))
        return [(socket.AF_INET, address) for address in [*internal[:MAX_ADDRESSES], PUBLIC]]

    refused: list[str] = []
    proxy = Proxy(Rules(parse_rules(["good.example"])), refused.append, resolver=resolve)
    ours, theirs = socket.socketpair()
    with ours:
        ours.sendall(b"GET http://good.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n")
        ours.shutdown(socket.SHUT_WR)
        proxy.answer(theirs)
        assert status(read_all(ours)) == 403
    assert asked == [("good.example", 80)]
    assert refused == ["good.example:80: good.example has 10.0.1.0, a private address"]


def client_hello_with(name: bytes) -> bytes:
    """Return a ClientHello whose server name consists of the bytes `name`."""
    return client_hello("a" * len(name)).replace(b"a" * len(name), name)
