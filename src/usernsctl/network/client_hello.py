"""Parser for the server name (server_name, RFC 6066) in the first message of a TLS client.

The parser is strict: it rejects a message that a server could parse differently.
"""

from __future__ import annotations

MAX_SIZE = 32 * 1024
"""Maximum size of a ClientHello with its record headers, in bytes.

Post-quantum key shares take 2 KiB.
"""

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_MAX_RECORD = 1 << 14
_MAX_RECORDS = 16
_SERVER_NAME = 0
# Extensions of Encrypted Client Hello (RFC 9849) and its drafts. They contain a second, encrypted
# name.
_ENCRYPTED = (0xFE0D, 0xFF03, 0xFF02, 0xFFCE)

# Numbers of fatal alerts, the values of AlertDescription (RFC 8446, section 6.2).
DECODE_ERROR = 50
ILLEGAL_PARAMETER = 47
MISSING_EXTENSION = 109
UNRECOGNIZED_NAME = 112


class NotAllowed(Exception):
    """Error for a ClientHello that the proxy does not forward; the message is the reason.

    :ivar alert: the description of the fatal alert to send to the client; ``None`` if the client
        does not speak TLS.
    """

    def __init__(self, reason: str, alert: int | None = DECODE_ERROR) -> None:
        super().__init__(reason)
        self.alert = alert

    def record(self) -> bytes:
        """Return the alert as a TLS record, or no bytes for a client that does not speak TLS."""
        return b"" if self.alert is None else bytes((21, 3, 1, 0, 2, 2, self.alert))


class _Reader:
    """A reader that returns consecutive fields of the message, and keeps its position."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) < size:
            raise NotAllowed("the ClientHello is malformed")
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """Read and return a vector whose length field has `size` bytes (RFC 8446, section 3.4)."""
        return self.take(self.number(size))

    @property
    def is_at_end(self) -> bool:
        return self._at == len(self._data)


def server_name(received: bytes) -> str | None:
    """Return the name in a ClientHello, or None while `received` is only a part of the message.

    :param received: all bytes from the client so far.
    :raises NotAllowed: `received` does not begin with a ClientHello that names one host.
    """
    message = _message(received)
    if message is None:
        if len(received) >= MAX_SIZE:
            raise NotAllowed(f"the ClientHello is longer than {MAX_SIZE} bytes")
        return None
    hello = _Reader(message)
    hello.take(2 + 32)  # Skip legacy_version and random.
    hello.vector(1)  # Skip legacy_session_id.
    hello.vector(2)  # Skip cipher_suites.
    hello.vector(1)  # Skip legacy_compression_methods.
    extensions = {} if hello.is_at_end else _extensions(hello.vector(2))
    if not hello.is_at_end:
        raise NotAllowed("the ClientHello is malformed")
    if any(kind in extensions for kind in _ENCRYPTED):
        raise NotAllowed(
            "the ClientHello hides a name (Encrypted Client Hello, ECH); turn ECH off in the "
            "client",
            ILLEGAL_PARAMETER,
        )
    if _SERVER_NAME not in extensions:
        raise NotAllowed("the ClientHello has no server name (SNI)", MISSING_EXTENSION)
    return _only_name(extensions[_SERVER_NAME])


def _message(received: bytes) -> bytes | None:
    """Join the TLS records of the message; return its body, or None if bytes are missing."""
    body = b""
    at = 0
    for _ in range(_MAX_RECORDS):
        head = received[at : at + 5]
        if (head and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
            raise NotAllowed("the client does not speak TLS", None if at == 0 else DECODE_ERROR)
        if len(head) < 5:
            return None
        size = int.from_bytes(head[3:5])
        if not 1 <= size <= _MAX_RECORD:
            raise NotAllowed("a TLS record has an invalid length")
        record = received[at + 5 : at + 5 + size]
        body += record
        at += 5 + size
        if body and body[0] != _CLIENT_HELLO:
            raise NotAllowed("the first TLS message is not a ClientHello")
        if len(body) >= 4:
            length = int.from_bytes(body[1:4])
            if length > MAX_SIZE:
                raise NotAllowed(f"the ClientHello is longer than {MAX_SIZE} bytes")
            if len(body) > 4 + length:
                raise NotAllowed("a TLS record has more than the ClientHello")
            if len(record) == size and len(body) == 4 + length:
                return body[4:]
        if len(record) < size:
            return None
    raise NotAllowed(f"the ClientHello is in more than {_MAX_RECORDS} TLS records")


def _extensions(data: bytes) -> dict[int, bytes]:
    reader = _Reader(data)
    found: dict[int, bytes] = {}
    while not reader.is_at_end:
        kind = reader.number(2)
        if kind in found:
            raise NotAllowed("the ClientHello has an extension twice")
        found[kind] = reader.vector(2)
    return found


def _only_name(extension: bytes) -> str:
    outer = _Reader(extension)
    names = _Reader(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if kind != 0 or not names.is_at_end or not outer.is_at_end:
        raise NotAllowed("the ClientHello has several server names")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise NotAllowed("the server name (SNI) is not ASCII", UNRECOGNIZED_NAME) from None
