"""Tests of finding the server name in a TLS ClientHello."""

from __future__ import annotations

import ssl
import struct

import pytest

from usernsctl.network.client_hello import MAX_SIZE, NotAllowed, server_name


def openssl_hello(name: str | None) -> bytes:
    """Return the first bytes that OpenSSL sends as a TLS client."""
    context = ssl.create_default_context()
    context.check_hostname = False
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def vector(size: int, data: bytes) -> bytes:
    return len(data).to_bytes(size) + data


def sni(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    return 0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names))


def hello(*extensions: tuple[int, bytes], tail: bytes = b"") -> bytes:
    """Return a ClientHello handshake message without the TLS record header."""
    listed = b"".join(struct.pack(">H", kind) + vector(2, data) for kind, data in extensions)
    body = b"\x03\x03" + bytes(32) + vector(1, b"") + vector(2, b"\x13\x01") + vector(1, b"\0")
    body += vector(2, listed) + tail
    return b"\x01" + vector(3, body)


def record(data: bytes, kind: int = 22) -> bytes:
    return bytes([kind, 3, 1]) + vector(2, data)


GOOD = record(hello(sni(b"example.com")))


def test_server_name_of_openssl_is_read() -> None:
    assert server_name(openssl_hello("example.com")) == "example.com"


def test_client_hello_without_a_name_is_refused() -> None:
    with pytest.raises(NotAllowed, match="no server name") as caught:
        server_name(openssl_hello(None))
    assert caught.value.record() == b"\x15\x03\x01\x00\x02\x02\x6d"


def test_incomplete_client_hello_has_no_name_yet() -> None:
    for whole in (GOOD, openssl_hello("example.com")):
        for size in range(len(whole)):
            assert server_name(whole[:size]) is None
        assert server_name(whole + b"early data") == "example.com"


@pytest.mark.parametrize("size", [16, 20, 50])
def test_client_hello_in_several_records_is_reassembled(size: int) -> None:
    message = hello(sni(b"example.com"))
    parts = [record(message[at : at + size]) for at in range(0, len(message), size)]
    whole = b"".join(parts)
    assert server_name(whole) == "example.com"
    assert all(server_name(whole[:length]) is None for length in range(len(whole)))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not speak TLS"),
        (b"SSH-2.0-OpenSSH_10.0\r\n", "does not speak TLS"),
        (b"\x80\x2e\x01\x03\x01", "does not speak TLS"),
        (b"\x16\x02", "does not speak TLS"),
        (record(b"\x01", kind=23), "does not speak TLS"),
        (record(b""), "invalid length"),
        (b"\x16\x03\x01\x40\x01", "invalid length"),
        (record(b"\x02\0\0\0"), "not a ClientHello"),
        (record(b"\x01\0\0\1") + record(b"", kind=21), "does not speak TLS"),
        (
            b"".join(record(bytes([byte])) for byte in hello(sni(b"a.b"))),
            "more than 16 TLS records",
        ),
        (record(b"\x01\xff\xff\xff"), f"longer than {MAX_SIZE}"),
        (record(hello(sni(b"a.b")) + b"\0"), "more than the ClientHello"),
        (record(hello(sni(b"a.b")) + hello(sni(b"c.d"))), "more than the ClientHello"),
        (record(hello(sni(b"a.b"), tail=b"\0")), "malformed"),
        (record(hello()), "no server name"),
        (record(hello(sni(b"a.b"), sni(b"c.d"))), "an extension twice"),
        (record(hello(sni(b"a.b", b"c.d"))), "several server names"),
        (record(hello(sni(b"a.b", kind=1))), "several server names"),
        (record(hello((0, b""))), "malformed"),
        (record(hello((0, vector(2, b"\0\0\5ab")))), "malformed"),
        (record(hello((0, sni(b"a.b")[1] + b"\0"))), "several server names"),
        (record(hello(sni(b"\xff"))), "not ASCII"),
        (record(hello(sni(b"a.b"), (0xFE0D, b"\0"))), "ECH"),
        (record(hello((0xFF02, b""), sni(b"a.b"))), "ECH"),
        (record(hello(sni(b"a.b"), (0xFFCE, b"\0"))), "ECH"),
    ],
)
def test_ambiguous_client_hello_is_refused(sent: bytes, reason: str) -> None:
    with pytest.raises(NotAllowed, match=reason):
        server_name(sent)


def test_client_without_tls_gets_no_alert() -> None:
    with pytest.raises(NotAllowed) as caught:
        server_name(b"GET / HTTP/1.1\r\n")
    assert caught.value.record() == b""


def test_oversized_client_hello_is_refused() -> None:
    head = b"\x01" + (MAX_SIZE).to_bytes(3)
    sent = record(head + bytes(16000)) + record(bytes(16000)) + record(bytes(700))
    assert server_name(sent[:100]) is None
    with pytest.raises(NotAllowed, match="longer than"):
        server_name(sent + record(bytes(67))[:70])
