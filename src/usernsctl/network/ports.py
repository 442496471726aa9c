"""Ports of this host that are forwarded to ports of a sandbox: ``[ADDR:]HOST:INSIDE[/udp]``."""

from __future__ import annotations

from usernsctl._lean import dataclass

MAX_PORTS = 64
UDP = "/udp"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, order=True)
class PublishedPort:
    """A port of this host that is forwarded to a port of a sandbox.

    :ivar outside: the port of this host.
    :ivar inside: the port in the sandbox, on 127.0.0.1.
    :ivar address: the address of this host on which the port is published.
    :ivar is_udp: whether both ports are UDP ports instead of TCP ports.
    """

    outside: int
    inside: int
    address: str = LOOPBACK
    is_udp: bool = False

    @classmethod
    def parse(cls, text: str) -> PublishedPort:
        """Parse ``[ADDR:]HOST:INSIDE[/udp]`` (``--publish``). IPv6 addresses need brackets.

        :raises ValueError: `text` is malformed.
        """
        return cls._parse(text, 1)

    @classmethod
    def parse_free(cls, text: str) -> PublishedPort:
        """Parse a text as :meth:`parse` does, and also accept 0 for HOST: any free port.

        :raises ValueError: `text` is malformed.
        """
        return cls._parse(text, 0)

    @classmethod
    def _parse(cls, text: str, least: int) -> PublishedPort:
        """Parse `[ADDR:]HOST:INSIDE[/udp]`; `least` is the lowest port allowed for HOST."""
        import ipaddress

        form = f"{text!r} is not [ADDR:]HOST:INSIDE[/udp], such as 8080:80 or 0.0.0.0:5353:53/udp"
        is_udp = text.endswith(UDP)
        rest, colon, inside = text.removesuffix(UDP if is_udp else "/tcp").rpartition(":")
        address, _, outside = rest.rpartition(":")
        if not colon:
            raise ValueError(form)
        if ":" in address and not (address.startswith("[") and address.endswith("]")):
            raise ValueError(f"{form}; an IPv6 address needs brackets")
        try:
            parsed = ipaddress.ip_address(address.strip("[]") or LOOPBACK)
        except ValueError:
            raise ValueError(f"{form}: {address!r} is not an address") from None
        if "%" in str(parsed):
            raise ValueError(f"{form}: {address!r} has a zone id, the name of a device")
        ports = _parse_port(text, outside, least), _parse_port(text, inside, 1)
        return cls(*ports, str(parsed), is_udp)

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.outside}:{self.inside}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The suffix for the protocol in options: ``"/udp"`` or an empty string."""
        return UDP if self.is_udp else ""


def _parse_port(text: str, port: str, least: int) -> int:
    is_number = port.isascii() and port.isdecimal() and len(port) <= 5
    if not is_number or not least <= int(port) <= 65535:
        raise ValueError(f"{text!r}: {port!r} is not a port from {least} to 65535")
    return int(port)
