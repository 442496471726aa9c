"""Tests of the proxy with arbitrary requests: it may open only connections that rules allow.

Python's http.server, which is independent of the proxy's own parser, also parses forwarded
requests.
"""

from __future__ import annotations

import io
import re
import socket
from http.server import BaseHTTPRequestHandler
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from proxied import client_hello, read_all

from usernsctl.network import addresses, proxy
from usernsctl.network.names import AllowedName, Rules
from usernsctl.network.proxy import Limits, Proxy

RULES = [AllowedName("good.example"), AllowedName("wild.example", True, 8080)]
ADDRESSES = {"good.example": ["93.184.215.14"], "a.wild.example": ["10.0.0.5", "93.184.215.15"]}
ALLOWED = {("good.example", 80), ("good.example", 443), ("a.wild.example", 8080)}
LIMITS = Limits(head_time=5, connect_time=5, idle_time=5)

HOSTS = st.sampled_from(
    [
        "good.example",
        "GOOD.example.",
        "good.example:80",
        "good.example:443",
        "a.wild.example:8080",
        "a.wild.example",
        "wild.example:8080",
        "evil.example",
        "evil.example:443",
        "127.0.0.1",
        "[::1]",
        "0x7f.1",
        "good.example@evil.example",
        "good.example%2eevil.example",
        "good.example\\evil.example",
        "",
    ]
)
# Strings that are inserted into a request at an arbitrary position.
FRAGMENTS = st.one_of(
    st.sampled_from(
        ["\n", "\r", "\r\n", "\r\n ", "\0", "\t", " ", ":", ";x", "@evil.example", "%2e"]
    ),
    st.sampled_from(
        [
            "\r\nHost: evil.example",
            "\r\nContent-Length: 5",
            "\r\nContent-Length: 0",
            "\r\nTransfer-Encoding: chunked",
            "\r\nTransfer-Encoding: gzip, chunked",
            "\r\nConnection: host, upgrade",
            "\r\nConnection: content-length",
            "\r\nUpgrade: websocket",
            "\r\nExpect: 100-continue",
            "\r\n\r\n",
            "HTTP/1.0",
            "0\r\nHost: evil.example\r\n\r\n",
        ]
    ),
    st.text(max_size=3),
)
EVIL = "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"
HELLOS = [client_hello(name).decode("latin-1") for name in ("good.example", "evil.example")]
BODIES = st.sampled_from(
    [
        "\r\n",
        "Content-Length: 5\r\n\r\nhello",
        f"Content-Length: {len(EVIL)}\r\n\r\n{EVIL}",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n",
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a request with a few random changes, followed by other data from the client."""
    host = draw(st.one_of(st.sampled_from(["good.example", "a.wild.example:8080"]), HOSTS))
    target = draw(st.sampled_from([f"http://{host}/a", f"http://{host}?b", host]))
    if draw(st.booleans()):
        host = host if ":" in host else f"{host}:443"
        text = f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n{draw(st.sampled_from(HELLOS))}"
    else:
        method = draw(st.sampled_from(["GET", "POST"]))
        text = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\n{draw(BODIES)}"
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2]))):
        start = draw(st.integers(0, min(len(text), 120)))
        end = draw(st.integers(start, min(start + 3, len(text))))
        text = text[:start] + draw(FRAGMENTS) + text[end:]
    return (text + draw(st.sampled_from(["", EVIL]))).encode("latin-1", "replace")


class ServerRequest(BaseHTTPRequestHandler):
    """A request as Python's http.server parses it."""

    def __init__(self, sent: bytes) -> None:
        self.rfile = io.BytesIO(sent)
        self.wfile = io.BytesIO()
        self.raw_requestline = self.rfile.readline(65537)
        assert self.parse_request(), self.wfile.getvalue()


def check_forwarded(sent: bytes, asked: list[tuple[str, int]]) -> None:
    """Check that a server parses `sent` as one request for the host that the proxy has resolved."""
    parsed = ServerRequest(sent)
    ((name, port),) = asked
    assert parsed.headers.get_all("Host") == [name if port == 80 else f"{name}:{port}"]
    assert parsed.headers.get_all("Connection") == ["close"]
    assert parsed.headers.get("Upgrade") is None
    codings = parsed.headers.get_all("Transfer-Encoding", [])
    lengths = parsed.headers.get_all("Content-Length", [] if codings else ["0"])
    assert len(lengths) + len(codings) == 1
    body = parsed.rfile.read()
    if lengths:
        assert len(body) <= int(lengths[0])
    else:
        assert codings == ["chunked"]
        assert re.fullmatch(rb"(5\r\nhello\r\n|a\r\n.{10}\r\n)*(0\r\n\r\n)?", body, re.S) or (
            not body.endswith(b"0\r\n\r\n")
        )


@settings(max_examples=500)
@given(requests())
def test_any_request_connects_only_to_allowed_names(request: bytes) -> None:
    asked: list[tuple[str, int]] = []
    connected: list[tuple[int, str, int]] = []
    refused: list[str] = []
    far, near = socket.socketpair()
    far.shutdown(socket.SHUT_WR)

    def resolve(name: str, port: int) -> list[tuple[int, str]]:
        asked.append((name, port))
        return [(socket.AF_INET, address) for address in ADDRESSES.get(name, [])]

    def connect(family: int, address: str, port: int, deadline: float) -> socket.socket:
        connected.append((family, address, port))
        return near

    client, theirs = socket.socketpair()
    with client, far, near:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        with (
            mock.patch.object(proxy, "_connect_to", connect),
            mock.patch.object(addresses, "is_own", return_value=False),
        ):
            Proxy(Rules(RULES), refused.append, limits=LIMITS, resolver=resolve).answer(theirs)
        answer = read_all(client)
        near.close()
        sent = read_all(far)
    assert set(asked) <= ALLOWED
    assert len(asked) <= 1
    assert len(connected) <= len(asked)
    assert not any(addresses.refusal(family, address) for family, address, _ in connected)
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    if answer.startswith(b"HTTP/1.1 200 "):
        assert not sent or client_hello_name(sent) == asked[0][0]
    elif sent:
        check_forwarded(sent, asked)


def client_hello_name(sent: bytes) -> str:
    """Return the server name in a ClientHello; check that it is one of the tests' names."""
    assert sent.startswith(b"\x16\x03\x01")
    (name,) = (name for name in ("good.example", "evil.example") if name.encode() in sent[:1000])
    return name


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_connect_only_to_allowed_names(sent: bytes) -> None:
    test_any_request_connects_only_to_allowed_names.hypothesis.inner_test(sent)  # type: ignore[attr-defined]
