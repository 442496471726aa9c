"""Tests of the HTTP requests that the proxy accepts, and of the requests that it forwards."""

from __future__ import annotations

import pytest

from usernsctl.network.http_request import (
    MAX_HEAD,
    BadRequest,
    ChunkedBody,
    Request,
    SizedBody,
    parse,
)


def lines(*each: str) -> bytes:
    return "\r\n".join((*each, "", "")).encode("latin-1")


def get(*fields: str, target: str = "http://example.com/a?b", version: str = "HTTP/1.1") -> Request:
    return parse(lines(f"GET {target} {version}", *fields))


def test_request_is_rewritten_for_the_server() -> None:
    request = get("hOST: Example.COM.", "X-A:  b c \t", "Accept: */*")
    assert request == Request(
        False,
        "example.com",
        80,
        lines(
            "GET /a?b HTTP/1.1", "Host: example.com", "x-a: b c", "accept: */*", "Connection: close"
        ),
        0,
    )


@pytest.mark.parametrize(
    ("target", "host", "first"),
    [
        ("HTTP://EXAMPLE.com", "example.com", "GET / HTTP/1.1"),
        ("http://example.com?a=http://b", "example.com", "GET /?a=http://b HTTP/1.1"),
        ("http://example.com:80/", "example.com", "GET / HTTP/1.1"),
        ("http://example.com/?u=a@b:c", "example.com:80", "GET /?u=a@b:c HTTP/1.1"),
        ("http://example.com//evil.org/", "example.com", "GET //evil.org/ HTTP/1.1"),
    ],
)
def test_host_ends_before_the_path(target: str, host: str, first: str) -> None:
    request = get(f"Host: {host}", target=target)
    assert request.name == "example.com"
    assert request.head.startswith(lines(first, "Host: example.com")[:-2])


def test_other_port_stays_in_the_host_field() -> None:
    request = get("Host: example.com:8080", target="http://example.com:8080/")
    assert request.port == 8080
    assert b"\r\nHost: example.com:8080\r\n" in request.head


def test_fields_for_the_proxy_are_removed() -> None:
    request = get(
        "Host: example.com",
        "Proxy-Authorization: Basic c2VjcmV0",
        "Proxy-Connection: keep-alive",
        "Connection: Keep-Alive, X-Private ,Upgrade",
        "Connection: http2-settings",
        "Keep-Alive: timeout=5",
        "X-Private: 1",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Upgrade: websocket",
        "TE: trailers",
        "Trailer: x",
        "X-Kept: 2",
    )
    assert request.head == lines(
        "GET /a?b HTTP/1.1", "Host: example.com", "x-kept: 2", "Connection: close"
    )


def test_http_1_0_needs_no_host_field() -> None:
    request = get(version="HTTP/1.0")
    assert request.head.startswith(b"GET /a?b HTTP/1.0\r\nHost: example.com\r\n")


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("example.com:443", "example.com:443"),
        ("EXAMPLE.com.:443", "example.com"),
        ("example.com:443", "example.com."),
    ],
)
def test_connect_takes_host_and_port(target: str, host: str) -> None:
    request = parse(lines(f"CONNECT {target} HTTP/1.1", f"Host: {host}", "Proxy-Connection: x"))
    assert request == Request(True, "example.com", 443, b"", 0)


def test_body_length_is_kept() -> None:
    request = get("Host: example.com", "Content-Length: 007")
    assert request.length == 7
    assert request.head.endswith(b"\r\nContent-Length: 7\r\n\r\n")
    chunked = get("Host: example.com", "Transfer-Encoding: Chunked")
    assert chunked.length is None
    assert chunked.head.endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n")


MALFORMED = [
    (b"\r\n\r\n", "METHOD TARGET VERSION"),
    (b"\r\n" + lines("GET http://a.b/ HTTP/1.1", "Host: a.b"), "METHOD TARGET VERSION"),
    (lines("GET http://a.b/"), "METHOD TARGET VERSION"),
    (lines("GET  http://a.b/ HTTP/1.1", "Host: a.b"), "METHOD TARGET VERSION"),
    (lines("GET http://a.b/ x HTTP/1.1", "Host: a.b"), "METHOD TARGET VERSION"),
    (lines("GET\thttp://a.b/\tHTTP/1.1", "Host: a.b"), "METHOD TARGET VERSION"),
    (lines(" http://a.b/ HTTP/1.1", "Host: a.b"), "method is malformed"),
    (lines("G(T http://a.b/ HTTP/1.1", "Host: a.b"), "method is malformed"),
    (lines(f"{'G' * 33} http://a.b/ HTTP/1.1", "Host: a.b"), "method is malformed"),
    (lines("GET http://a.b/\xe4 HTTP/1.1", "Host: a.b"), "target is malformed"),
    (lines("GET http://a.b/\n HTTP/1.1", "Host: a.b"), "target is malformed"),
    (lines("GET http://a.b/\0 HTTP/1.1", "Host: a.b"), "target is malformed"),
    (lines("GET http://a.b/ HTTP/2.0", "Host: a.b"), "speaks HTTP/1.1"),
    (lines("GET http://a.b/ HTTP/1.1\n", "Host: a.b"), "speaks HTTP/1.1"),
    (lines("GET http://a.b/ http/1.1", "Host: a.b"), "speaks HTTP/1.1"),
    (lines("PRI * HTTP/2.0"), "speaks HTTP/1.1"),
    # Requests with invalid hosts.
    (lines("GET http://a.b/ HTTP/1.1"), "has no Host"),
    (lines("GET http://a.b/ HTTP/1.1", "Host:"), "name is empty"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Host: a.b"), "host more than once"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "hOst: c.d"), "host more than once"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: c.d"), "not the host of the target"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b:81"), "not the host of the target"),
    (lines("GET http://a.b:81/ HTTP/1.1", "Host: a.b:80"), "not the host of the target"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b, c.d"), "is not a host name"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: x@a.b"), "has a user"),
    (lines("CONNECT a.b:443 HTTP/1.1", "Host: c.d:443"), "not the host of the target"),
    (lines("CONNECT a.b:443 HTTP/1.1", "Host: a.b:22"), "not the host of the target"),
    (lines("CONNECT a.b HTTP/1.1", "Host: a.b"), "must be HOST:PORT"),
    (lines("CONNECT :443 HTTP/1.1", "Host: a.b"), "name is empty"),
    (lines("CONNECT a.b: HTTP/1.1", "Host: a.b"), "the port is malformed"),
    (lines("CONNECT a.b:0 HTTP/1.1", "Host: a.b"), "port is not from 1"),
    (lines("CONNECT a.b:65536 HTTP/1.1", "Host: a.b"), "port is not from 1"),
    (lines("CONNECT a.b:443443 HTTP/1.1", "Host: a.b"), "the port is malformed"),
    (lines("CONNECT a.b:+443 HTTP/1.1", "Host: a.b"), "the port is malformed"),
    (lines("CONNECT a.b:443/x HTTP/1.1", "Host: a.b"), "the port is malformed"),
    (lines("CONNECT http://a.b:443 HTTP/1.1", "Host: a.b"), "is not a host name"),
    (lines("CONNECT u@a.b:443 HTTP/1.1", "Host: a.b"), "has a user"),
    (lines("CONNECT a.b:443 HTTP/1.1", "Host: a.b", "Content-Length: 3"), "no body"),
    (lines("CONNECT a.b:443 HTTP/1.1", "Host: a.b", "Transfer-Encoding: chunked"), "no body"),
    (lines("GET / HTTP/1.1", "Host: a.b"), "this is a proxy"),
    (lines("GET //a.b/ HTTP/1.1", "Host: a.b"), "this is a proxy"),
    (lines("OPTIONS * HTTP/1.1", "Host: a.b"), "this is a proxy"),
    (lines("GET a.b:80 HTTP/1.1", "Host: a.b"), "this is a proxy"),
    (lines("GET ftp://a.b/ HTTP/1.1", "Host: a.b"), "this is a proxy"),
    (lines("GET http:a.b/ HTTP/1.1", "Host: a.b"), "this is a proxy"),
    (lines("GET http:///a.b HTTP/1.1", "Host: a.b"), "name is empty"),
    (lines("GET https://a.b/ HTTP/1.1", "Host: a.b"), "use CONNECT for https"),
    (lines("GET http://a.b/#x HTTP/1.1", "Host: a.b"), "fragment"),
    (lines("GET http://a.b@c.d/ HTTP/1.1", "Host: c.d"), "has a user"),
    (lines("GET http://u:p@a.b/ HTTP/1.1", "Host: a.b"), "has a user"),
    (lines("GET http://a.b\\@c.d/ HTTP/1.1", "Host: c.d"), "has a user"),
    (lines("GET http://a.b\\c.d/ HTTP/1.1", "Host: a.b"), "is not a host name"),
    (lines("GET http://a.b%2fc.d/ HTTP/1.1", "Host: a.b"), "is not a host name"),
    (lines("GET http://%31%32%37.0.0.1/ HTTP/1.1", "Host: a.b"), "is not a host name"),
    (lines("GET http://127.0.0.1/ HTTP/1.1", "Host: 127.0.0.1"), "an address is not a name"),
    (lines("GET http://2130706433/ HTTP/1.1", "Host: a.b"), "an address is not a name"),
    (lines("GET http://0x7f.1/ HTTP/1.1", "Host: a.b"), "an address is not a name"),
    (lines("GET http://0x7f000001/ HTTP/1.1", "Host: a.b"), "an address is not a name"),
    (lines("GET http://0177.1/ HTTP/1.1", "Host: a.b"), "an address is not a name"),
    (lines("GET http://127.0.0.1./ HTTP/1.1", "Host: a.b"), "an address is not a name"),
    (lines("GET http://[::1]/ HTTP/1.1", "Host: [::1]"), "IPv6 address"),
    (lines("GET http://[::1]:80/ HTTP/1.1", "Host: a.b"), "IPv6 address"),
    (lines("GET http://::1:80/ HTTP/1.1", "Host: a.b"), "IPv6 address"),
    (lines("GET http://[::ffff:127.0.0.1]/ HTTP/1.1", "Host: a.b"), "IPv6 address"),
    # Requests with invalid header fields.
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", ": x"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host : a.b"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", " folded"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "\tX: y"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X Y: z"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X\0: y"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X\xe4: y"), "header field is malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X: y\nHost: c.d"), "control character"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X: y\rHost: c.d"), "control character"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X: y\r"), "control character"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X: \0"), "control character"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X: \x7f"), "control character"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", *["X: y"] * 100), "more than 100"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Connection: host"), "Connection names"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Connection: a,Content-Length"), "Connection"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Connection: transfer-encoding"), "Connection"),
    # Requests with invalid bodies.
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: -1"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: +1"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: 0x1"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: 1_0"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: 1 1"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: 1, 1"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length:"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: \xb2"), "malformed"),
    (lines("GET http://a.b/ HTTP/1.1", "Host: a.b", f"Content-Length: {'9' * 19}"), "malformed"),
    (
        lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "Content-Length: 1", "Content-Length: 1"),
        "content-length more than once",
    ),
    (
        lines(
            "POST http://a.b/ HTTP/1.1",
            "Host: a.b",
            "Content-Length: 1",
            "Transfer-Encoding: chunked",
        ),
        "both content-length and transfer-encoding",
    ),
    (
        lines("POST http://a.b/ HTTP/1.1", "Host: a.b", *["Transfer-Encoding: chunked"] * 2),
        "transfer-encoding more than once",
    ),
    *(
        (
            lines("POST http://a.b/ HTTP/1.1", "Host: a.b", f"Transfer-Encoding: {coding}"),
            "not chunked",
        )
        for coding in (
            "",
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "xchunked",
            '"chunked"',
        )
    ),
    (
        lines("POST http://a.b/ HTTP/1.0", "Host: a.b", "Transfer-Encoding: chunked"),
        "not chunked",
    ),
]


@pytest.mark.parametrize(("head", "reason"), MALFORMED)
def test_malformed_or_ambiguous_request_is_refused(head: bytes, reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        parse(head)


def test_longest_allowed_head_is_parsed() -> None:
    plain = lines("GET http://a.b/ HTTP/1.1", "Host: a.b", "X: ")
    long = plain.replace(b"X: ", b"X: " + b"y" * (MAX_HEAD - len(plain)))
    assert len(long) == MAX_HEAD
    assert parse(long).name == "a.b"


def test_sized_body_ends_at_its_length() -> None:
    body = SizedBody(5)
    assert body.feed(b"abc") == b"abc"
    assert not body.is_complete
    assert body.feed(b"deGET http://c.d/") == b"de"
    assert body.is_complete
    assert body.feed(b"more") == b""


CHUNKED = b"5\r\nhello\r\n0A\r\n0123456789\r\n000\r\n\r\n"
WRITTEN = b"5\r\nhello\r\na\r\n0123456789\r\n0\r\n\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunked_body_is_rewritten_up_to_its_end(size: int) -> None:
    body = ChunkedBody()
    sent = CHUNKED + b"GET http://c.d/ HTTP/1.1\r\n\r\n"
    assert feed(body, sent, size) == WRITTEN
    assert body.is_complete


def feed(body: ChunkedBody, sent: bytes, size: int) -> bytes:
    return b"".join(body.feed(sent[at : at + size]) for at in range(0, len(sent), size))


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    "sent",
    [
        b"5;x=y\r\n",
        b"5 \r\n",
        b" 5\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+5\r\n",
        b"0x5\r\n",
        b"g\r\n",
        b"5\n",
        b"5\r\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\naX\r\n",
        b"0000000000000001\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\nX: y\r\n",
        b"0\r\n\n",
        b"0\r\nGET http://c.d/ HTTP/1.1\r\n",
        b"1" * 100,
    ],
)
def test_malformed_or_ambiguous_chunk_is_refused(sent: bytes, size: int) -> None:
    body = ChunkedBody()
    with pytest.raises(BadRequest):
        feed(body, sent, size)
    assert not body.is_complete
