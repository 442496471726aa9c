"""A strict parser for HTTP/1.1 requests to the proxy, and the requests that the proxy forwards.

The parser rejects a request that two programs could parse in different ways. Otherwise the proxy
could check one host, while a server or another proxy serves another host (request smuggling). The
parser therefore even rejects forms that RFC 9112 permits recipients to accept: line endings without
CR, folded lines, repeated Host or Content-Length, a length beside a transfer coding, chunk
extensions and trailers.

The proxy forwards a new request, which it composes of the parsed fields.
"""

from __future__ import annotations

from usernsctl._lean import TYPE_CHECKING, dataclass
from usernsctl.network.names import NotAName, normal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_HEAD = 32 * 1024
"""Maximum size of a request line with its header fields, in bytes."""

_MAX_FIELDS = 100
_MAX_METHOD = 32
_MAX_LENGTH_DIGITS = 18
_MAX_CHUNK_DIGITS = 15

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_VISIBLE = frozenset(range(0x21, 0x7F))
_VALUE = frozenset((0x09, *range(0x20, 0x7F), *range(0x80, 0x100)))
_DIGITS = frozenset(b"0123456789")
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")

# Header fields that are not forwarded (RFC 9110, section 7.6.1), even if Connection does not name
# them.
_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"upgrade",
    )
)
# Header fields that the proxy writes itself. Connection must not name them.
_OWN = frozenset((b"host", b"content-length", b"transfer-encoding"))


class BadRequest(Exception):
    """Error for a request that the proxy can't parse. The message is the reason.

    :ivar status: the status code and reason phrase of the response.
    """

    def __init__(self, reason: str, status: str = "400 Bad Request") -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A parsed request, which names one host.

    :ivar is_connect: whether the client requests a tunnel.
    :ivar name: the host, as :func:`usernsctl.network.names.normal_name` returns it.
    :ivar port: the port of the host.
    :ivar head: the request line and header fields for the server; empty for a tunnel.
    :ivar length: the size of the body in bytes; ``None`` for a chunked body.
    """

    is_connect: bool
    name: str
    port: int
    head: bytes
    length: int | None


def parse(head: bytes) -> Request:
    """Parse a request line and its header fields.

    :param head: the bytes up to and including the empty line.
    :raises BadRequest: `head` is malformed or ambiguous.
    """
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, version = _request_line(first)
    fields = list(_fields(lines))
    host = _only(fields, b"host")
    if method == b"CONNECT":
        name, port = _authority(target, None)
        _check_host(host, version, name, port, 443)
        if any(field in (b"content-length", b"transfer-encoding") for field, _ in fields):
            raise BadRequest("a CONNECT request has no body")
        return Request(True, name, port, b"", 0)
    name, port, path = _absolute(target)
    _check_host(host, version, name, port, 80)
    length = _body_length(fields, version)
    lines = [
        b"%s %s %s" % (method, path, version),
        b"Host: " + _host_field(name, port),
        *(b"%s: %s" % field for field in _end_to_end(fields)),
        b"Connection: close",
    ]
    if length is None:
        lines.append(b"Transfer-Encoding: chunked")
    elif _only(fields, b"content-length") is not None:
        lines.append(b"Content-Length: %d" % length)
    return Request(False, name, port, b"\r\n".join(lines) + b"\r\n\r\n", length)


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    words = line.split(b" ")
    if len(words) != 3:
        raise BadRequest("the request line is not METHOD TARGET VERSION")
    method, target, version = words
    if not method or len(method) > _MAX_METHOD or not _TOKEN.issuperset(method):
        raise BadRequest("the method is malformed")
    if not target or not _VISIBLE.issuperset(target):
        raise BadRequest("the target is malformed")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest("the proxy speaks HTTP/1.1", "505 HTTP Version Not Supported")
    return method, target, version


def _fields(lines: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name (in lower case) and the value of each header field."""
    if len(lines) > _MAX_FIELDS:
        raise BadRequest(
            f"the request has more than {_MAX_FIELDS} header fields",
            "431 Request Header Fields Too Large",
        )
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or not _TOKEN.issuperset(name):
            raise BadRequest("a header field is malformed")
        value = value.strip(b" \t")
        if not _VALUE.issuperset(value):
            raise BadRequest("a header field has a control character")
        yield name.lower(), value


def _only(fields: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    values = [value for each, value in fields if each == name]
    if len(values) > 1:
        raise BadRequest(f"the request has {name.decode()} more than once")
    return values[0] if values else None


def _absolute(target: bytes) -> tuple[str, int, bytes]:
    """Return the host, the port and the path of an absolute request target."""
    scheme, separator, rest = target.partition(b"://")
    if scheme.lower() != b"http" or not separator:
        if scheme.lower() == b"https" and separator:
            raise BadRequest("the proxy makes no TLS connections; use CONNECT for https")
        raise BadRequest("this is a proxy: the target must be http://HOST/...")
    if b"#" in rest:
        raise BadRequest("the target has a fragment")
    end = min(at for at in (rest.find(b"/"), rest.find(b"?"), len(rest)) if at >= 0)
    name, port = _authority(rest[:end], 80)
    path = rest[end:]
    return name, port, path if path.startswith(b"/") else b"/" + path


def _authority(text: bytes, default: int | None) -> tuple[str, int]:
    """Parse ``HOST[:PORT]``; `default` is the port if PORT is missing, None to require PORT."""
    if b"@" in text:
        raise BadRequest("the target has a user")
    host, colon, port = text.rpartition(b":") if not text.endswith(b"]") else (text, b"", b"")
    if not colon:
        if default is None:
            raise BadRequest("the target of CONNECT must be HOST:PORT")
        host, number = text, default
    else:
        number = _number("the port", port, 5)
        if not 1 <= number <= 65535:
            raise BadRequest("the port is not from 1 to 65535")
    try:
        return normal_name(host.decode("ascii")), number
    except (NotAName, UnicodeDecodeError) as error:
        raise BadRequest(f"HOST is not a host name: {error}") from None


def _check_host(host: bytes | None, version: bytes, name: str, port: int, default: int) -> None:
    """Reject a request whose Host field names another host than the request target.

    Some servers and proxies serve the host in the Host field, others serve the host in the request
    target.
    """
    if host is None:
        if version == b"HTTP/1.1":
            raise BadRequest("the request has no Host")
        return
    given, given_port = _authority(host, default)
    # Accept a Host field without a port, which some clients send in a CONNECT request.
    if given != name or (given_port != port and b":" in host):
        raise BadRequest("Host is not the host of the target")


def _body_length(fields: list[tuple[bytes, bytes]], version: bytes) -> int | None:
    """Return the size of the body in bytes, or None for a chunked body."""
    coding = _only(fields, b"transfer-encoding")
    length = _only(fields, b"content-length")
    if coding is None:
        return 0 if length is None else _number("Content-Length", length, _MAX_LENGTH_DIGITS)
    if length is not None:
        raise BadRequest("the request has both content-length and transfer-encoding")
    if coding.lower() != b"chunked" or version != b"HTTP/1.1":
        raise BadRequest("the transfer-encoding is not chunked", "501 Not Implemented")
    return None


def _end_to_end(fields: list[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Return the header fields that the proxy forwards unchanged."""
    named = {
        word.strip(b" \t").lower()
        for field, value in fields
        if field == b"connection"
        for word in value.split(b",")
    }
    if named & _OWN:
        raise BadRequest("Connection names a field that the server needs")
    without = named | _HOP_BY_HOP | _OWN
    return ((name, value) for name, value in fields if name not in without)


def _host_field(name: str, port: int) -> bytes:
    return (name if port == 80 else f"{name}:{port}").encode("ascii")


def _number(what: str, text: bytes, digits: int) -> int:
    if not text or len(text) > digits or not _DIGITS.issuperset(text):
        raise BadRequest(f"{what} is malformed or too large")
    return int(text)


class SizedBody:
    """Parser of a body of known size. Bytes after the body are dropped."""

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def is_complete(self) -> bool:
        """Return whether :meth:`feed` has received the whole body."""
        return self._left == 0

    def feed(self, data: bytes) -> bytes:
        """Return the part of `data` that belongs to the body."""
        body = data[: self._left]
        self._left -= len(body)
        return body


class ChunkedBody:
    """Parser of a chunked body; encodes the body again for the server.

    :ivar is_complete: whether the last chunk was parsed.
    """

    def __init__(self) -> None:
        self.is_complete: bool = False
        self._left = 0
        self._line = b""
        self._end_line: Callable[[bytes], bytes] = self._end_size

    def feed(self, data: bytes) -> bytes:
        """Parse `data`, and return the bytes to forward; bytes after the body are dropped.

        :raises BadRequest: `data` is malformed, or contains extensions or trailers.
        """
        out = []
        while data and not self.is_complete:
            if self._left:
                out.append(data[: self._left])
                data = data[self._left :]
                self._left -= len(out[-1])
                continue
            end = data.find(b"\n") + 1 or len(data)
            self._line += data[:end]
            data = data[end:]
            if len(self._line) > _MAX_CHUNK_DIGITS + 2:
                raise BadRequest("the size of a chunk is too long or has extensions")
            if self._line.endswith(b"\n"):
                line, self._line = self._line, b""
                if not line.endswith(b"\r\n"):
                    raise BadRequest("a line of a chunked body does not end with CR LF")
                out.append(self._end_line(line[:-2]))
        return b"".join(out)

    def _end_size(self, digits: bytes) -> bytes:
        if not digits or not _HEX_DIGITS.issuperset(digits):
            raise BadRequest("the size of a chunk is not a hexadecimal number")
        self._left = int(digits, 16)
        self._end_line = self._end_chunk if self._left else self._end_body
        return b"%x\r\n" % self._left if self._left else b""

    def _end_chunk(self, more: bytes) -> bytes:
        if more:
            raise BadRequest("a chunk is longer than its size")
        self._end_line = self._end_size
        return b"\r\n"

    def _end_body(self, trailer: bytes) -> bytes:
        if trailer:
            raise BadRequest("the request has trailers")
        self.is_complete = True
        return b"0\r\n\r\n"
