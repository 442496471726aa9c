"""Rules for address ranges that a sandbox may reach: ``CIDR[:PORT]``, and their form for nft(8)."""

from __future__ import annotations

import ipaddress

from usernsctl._lean import dataclass
from usernsctl.network.names import AllowedName


@dataclass(frozen=True, slots=True, order=True)
class AllowedRange:
    """A rule that allows a range of addresses.

    :ivar network: the range of addresses, such as ``"198.51.100.0/24"`` or ``"2001:db8::/32"``.
    :ivar first: the first port; ``None`` for all ports of all protocols.
    :ivar last: the last port; ``None`` if `first` is None.
    """

    network: str
    first: int | None = None
    last: int | None = None

    @classmethod
    def parse(cls, text: str) -> AllowedRange:
        """Parse ``CIDR[:PORT[-PORT]]`` or ``[CIDR]:PORT[-PORT]`` for IPv6, the form of ``--allow``.

        :raises ValueError: `text` is malformed.
        """
        form = f"{text!r} is not CIDR[:PORT], such as 198.51.100.0/24:443 or [2001:db8::/32]:443"
        if text.startswith("["):
            address, bracket, rest = text[1:].partition("]")
            colon, port = rest[:1], rest[1:]
            if not bracket or colon not in ("", ":"):
                raise ValueError(form)
        elif text.count(":") > 1:
            address, colon, port = text, "", ""
        else:
            address, colon, port = text.partition(":")
        if "%" in address:
            raise ValueError(
                f"{text!r} has a zone id, the name of a device, which no rule can have"
            )
        try:
            network = ipaddress.ip_network(address)
        except ValueError as error:
            raise ValueError(f"{form}: {error}") from None
        if network.version == 6 and network.subnet_of(ipaddress.IPv6Network("::ffff:0:0/96")):
            raise ValueError(f"{text!r} has IPv4-mapped IPv6 addresses; write IPv4 addresses")
        if not colon:
            return cls(str(network))
        first, dash, last = port.partition("-")
        least = _parse_port(text, first)
        most = _parse_port(text, last) if dash else least
        if least > most:
            raise ValueError(f"{text!r}: port {least} is above port {most}")
        return cls(str(network), least, most)

    def __str__(self) -> str:
        if self.first is None:
            return self.network
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"[{self.network}]:{ports}" if ":" in self.network else f"{self.network}:{ports}"

    @property
    def condition(self) -> str:
        """The rule as an nft(8) match expression."""
        family = "ip6" if ":" in self.network else "ip"
        condition = f"{family} daddr {self.network}"
        if self.first is None:
            return condition
        return f"{condition} meta l4proto {{ tcp, udp }} th dport {self.first}-{self.last}"


def parse_allowed(text: str) -> AllowedName | AllowedRange:
    """Parse a value of ``--allow``: a range of addresses, or a host name.

    :raises ValueError: `text` is malformed.
    """
    host = _host_of_url(text)
    if host is not None:
        raise ValueError(f"{text!r} is a URL, and a rule has neither scheme nor path; write {host}")
    host = text.partition(":")[0]
    last = host.removesuffix(".").rpartition(".")[2]
    is_range = "/" in text or text.startswith("[") or text.count(":") > 1 or last.isdecimal()
    return AllowedRange.parse(text) if is_range else AllowedName.parse(text)


def _host_of_url(text: str) -> str | None:
    """Return the host in a URL, or in a name with a path; None for any other text."""
    _, has_scheme, rest = text.partition("://")
    if has_scheme:
        return rest.partition("/")[0]
    host, has_path, _ = text.partition("/")
    try:
        AllowedName.parse(host)
    except ValueError:
        return None
    return host if has_path else None


def _parse_port(text: str, port: str) -> int:
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise ValueError(f"{text!r}: {port!r} is not a port from 1 to 65535")
    return int(port)
