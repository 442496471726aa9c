"""Addresses to which the proxy never connects, even if an allowed name resolves to them.

The owner of a name decides to which addresses the name resolves, for example to an address of this
host, of a neighbour, or of the cloud's metadata service. The proxy therefore connects only to
addresses of the public internet. The tables follow IANA's registries of special-purpose addresses
(RFC 6890).
"""

from __future__ import annotations

import errno
import struct
from socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    MSG_DONTWAIT,
    NETLINK_ROUTE,
    SOCK_CLOEXEC,
    SOCK_RAW,
    inet_pton,
    socket,
)

# Constants of linux/netlink.h and linux/rtnetlink.h.
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_RTA_DST = 1
_RTN_UNICAST = 1

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port.
_ROUTE = struct.Struct("=8BI")  # struct rtmsg: family, length of the destination, ..., flags.
_TYPE_AT = _HEADER.size + 7  # The offset of rtm_type in a message, in bytes.
_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH)

# Forbidden IPv4 networks, each with the reason. If an address is in several networks, the reason of
# the first network in the table is reported.
_IPV4 = (
    ("0.0.0.0", 8, "an address of this machine"),  # noqa: S104
    ("10.0.0.0", 8, "a private address"),
    ("100.64.0.0", 10, "an address of a provider's own network"),
    ("127.0.0.0", 8, "a loopback address"),
    ("169.254.0.0", 16, "a link-local address, as those of clouds' metadata are"),
    ("172.16.0.0", 12, "a private address"),
    ("192.0.0.0", 24, "a reserved address"),
    ("192.0.2.0", 24, "an address for documentation"),
    ("192.88.99.0", 24, "a 6to4 relay"),
    ("192.168.0.0", 16, "a private address"),
    ("198.18.0.0", 15, "an address for benchmarks"),
    ("198.51.100.0", 24, "an address for documentation"),
    ("203.0.113.0", 24, "an address for documentation"),
    ("224.0.0.0", 4, "a multicast address"),
    ("240.0.0.0", 4, "a reserved address"),
    # Azure's platform service has a public address, but can be reached only inside Azure.
    ("168.63.129.16", 32, "the metadata service of Azure"),
)

# Forbidden IPv6 networks. All addresses outside 2000::/3, the public internet, are forbidden; the
# table contains the reasons for common networks.
_IPV6 = (
    ("::", 128, "the unspecified address"),
    ("::1", 128, "a loopback address"),
    ("::ffff:0:0", 96, "an IPv4-mapped address"),
    ("64:ff9b::", 96, "a translated IPv4 address (NAT64)"),
    ("64:ff9b:1::", 48, "a translated IPv4 address (NAT64)"),
    ("fc00::", 7, "a private address"),
    ("fe80::", 10, "a link-local address"),
    ("ff00::", 8, "a multicast address"),
    ("2001::", 23, "a reserved or tunnelled address (Teredo, ORCHID)"),
    ("2001:db8::", 32, "an address for documentation"),
    ("2002::", 16, "a tunnelled IPv4 address (6to4)"),
    ("3fff::", 20, "an address for documentation"),
)


def _table(
    family: int, bits: int, rows: tuple[tuple[str, int, str], ...]
) -> list[tuple[int, int, str]]:
    """Return each network's prefix as a number, the count of its host bits, and its reason."""
    return [
        (int.from_bytes(inet_pton(family, network)) >> (bits - prefix), bits - prefix, reason)
        for network, prefix, reason in rows
    ]


_IPV4_TABLE = _table(AF_INET, 32, _IPV4)
_IPV6_TABLE = _table(AF_INET6, 128, _IPV6)
_PUBLIC_IPV6 = (0b001, 125)


def refusal(family: int, address: str) -> str | None:
    """Return the reason why the proxy does not connect to an address, or None if it may connect.

    :param family: AF_INET or AF_INET6.
    :param address: the address as text, as getaddrinfo(3) returns it.
    """
    if family not in (AF_INET, AF_INET6):
        return "neither an IPv4 nor an IPv6 address"
    try:
        number = int.from_bytes(inet_pton(family, address))
    except OSError:
        # inet_pton(3) rejects an address with a zone, such as fe80::1%eth0.
        return "a link-local address with a zone"
    for network, shift, reason in _IPV4_TABLE if family == AF_INET else _IPV6_TABLE:
        if number >> shift == network:
            return reason
    if family == AF_INET6 and number >> _PUBLIC_IPV6[1] != _PUBLIC_IPV6[0]:
        return "a reserved address"
    return None


def is_own(family: int, address: str) -> bool:
    """Return whether a connection to an address could stay on this host.

    The function queries the kernel's route to the address, because this host may have public
    addresses, even whole networks (``ip route add local``). Connections to broadcast and anycast
    addresses may stay on this host, too. If the query fails, the result is true.

    :param family: AF_INET or AF_INET6.
    :param address: the address as text. :func:`refusal` must have returned None for this address.
    """
    try:
        answer = _ask_route(family, inet_pton(family, address))
        _, kind, *_ = _HEADER.unpack_from(answer)
        if kind == _NLMSG_ERROR:
            (number,) = struct.unpack_from("=i", answer, _HEADER.size)
            # An address without a route is not an address of this host; the connection will fail.
            return -number not in _NO_ROUTE
        return kind != _RTM_NEWROUTE or answer[_TYPE_AT] != _RTN_UNICAST
    except (OSError, struct.error, IndexError):
        return True


def _ask_route(family: int, destination: bytes) -> bytes:
    """Query the route to an address; return the kernel's reply (rtnetlink(7)).

    :raises OSError: the query could not be sent, or the reply not be received.
    """
    route = _ROUTE.pack(family, 8 * len(destination), *bytes(6), 0)
    route += struct.pack("=HH", 4 + len(destination), _RTA_DST) + destination
    size = _HEADER.size + len(route)
    question = _HEADER.pack(size, _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0) + route
    with socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE) as kernel:
        kernel.send(question)
        # Do not wait, because the kernel sends its reply before send() returns.
        return kernel.recv(8192, MSG_DONTWAIT)
