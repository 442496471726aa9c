"""Addresses that no allowed name may lead to.

The owner of a name decides what the name resolves to. So the proxy connects only to addresses of
the public internet, whatever a resolver answers: else an allowed name could lead to a service of
this machine, its neighbours, or its cloud's metadata. The table follows IANA's registries of
special-purpose addresses (RFC 6890).
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, SOCK_DGRAM, inet_pton, socket

# The first that contains an address gives the reason.
_IPV4 = (
    ("0.0.0.0", 8, "an address of this machine"),
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
    # Azure's platform service has a public address that is reachable only inside of Azure.
    ("168.63.129.16", 32, "the metadata service of Azure"),
)

# Only 2000::/3 is assigned to the public internet. The reasons for others are the common ones.
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
    """Return the network as a number, the number of bits after its prefix, and the reason."""
    return [
        (int.from_bytes(inet_pton(family, network)) >> (bits - prefix), bits - prefix, reason)
        for network, prefix, reason in rows
    ]


_IPV4_TABLE = _table(AF_INET, 32, _IPV4)
_IPV6_TABLE = _table(AF_INET6, 128, _IPV6)
_PUBLIC_IPV6 = (0b001, 125)


def refusal(family: int, address: str) -> str | None:
    """Return why the proxy does not connect to an address, or None if it does.

    :param family: AF_INET or AF_INET6.
    :param address: the address as text, as getaddrinfo(3) gives it.
    """
    if family not in (AF_INET, AF_INET6):
        return "an address of another family"
    try:
        number = int.from_bytes(inet_pton(family, address))
    except OSError:
        # A zone, as in fe80::1%eth0.
        return "an address of one link"
    for network, shift, reason in _IPV4_TABLE if family == AF_INET else _IPV6_TABLE:
        if number >> shift == network:
            return reason
    if family == AF_INET6 and number >> _PUBLIC_IPV6[1] != _PUBLIC_IPV6[0]:
        return "a reserved address"
    return None


def is_own(family: int, address: str) -> bool:
    """Return whether an address is one of this machine's own, also if public.

    The kernel gives connections to an own address the same address as the source. Connecting a
    datagram socket sends nothing.
    """
    with socket(family, SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError:
            # There is no route; the connection itself will fail.
            return False
        own: str = probe.getsockname()[0]
        return own == address
