"""Program that tries all known ways to get around the network restrictions of a sandbox.

    python3 ways_out.py ADDRESSES [NAME...]

ADDRESSES is a JSON object with the addresses to reach (:class:`Targets`). The program prints a JSON
object with the result of each way, or of each way in NAME: ``reached`` or ``failed``, and a
description of the result. Only the standard library is used, because the tests pass this file's
text to the sandbox's Python.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable

SECONDS = 3
MAX_THREADS = 32
IP_OPTIONS, IP_PKTINFO, IP_FREEBIND, IP_TRANSPARENT, IP_UNICAST_IF = 4, 8, 15, 19, 50
IPV6_PKTINFO, IPV6_RTHDR, IPV6_UNICAST_IF = 50, 57, 76
TCP_FASTOPEN_CONNECT, UDP_SEGMENT = 30, 103
SOCK_DCCP, IPPROTO_DCCP, IPPROTO_L2TP = 6, 33, 115
SIOCSIFFLAGS, SIOCSIFADDR, TUNSETIFF = 0x8914, 0x8916, 0x400454CA
CLONE_NEWNET = 0x40000000
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE = 16, 20, 24, 25, 32
# DNS query for web.example's IPv4 address.
QUERY = b"\0\1\1\0\0\1\0\0\0\0\0\0\3web\7example\0\0\1\0\1"


class Targets:
    """Addresses that the attacks (WAYS) try to reach, in the virtual network of tests/networks.py.

    :ivar web: a server on the simulated internet that some sandboxes are allowed to reach.
    :ivar other: a server on the simulated internet that no sandbox's `--allow` options name.
    :ivar published: a published port of another sandbox, on the simulated host.
    """

    def __init__(self, text: str) -> None:
        values = json.loads(text)
        self.web: str = values["web"]
        self.other: str = values["other"]
        self.dns: str = values["dns"]
        self.neighbour: str = values["neighbour"]
        self.machine: str = values["machine"]
        self.machine_2: str = values["machine_2"]
        self.machine_6: str = values["machine_6"]
        self.bridge: str = values["bridge"]
        self.bridge_6: str = values["bridge_6"]
        self.link_local: str = values["link_local"]
        self.router: str = values["router"]
        self.router_6: str = values["router_6"]
        self.metadata: str = values["metadata"]
        self.metadata_6: str = values["metadata_6"]
        self.broadcast: str = values["broadcast"]
        self.abstract: str = values["abstract"]
        self.published: int = values["published"]
        self.device: str = values["device"]

    def index(self) -> int:
        return socket.if_nametoindex(self.device)


Way = Callable[[Targets], str]
WAYS: dict[str, Way] = {}


def way(name: str) -> Callable[[Way], Way]:
    def add(function: Way) -> Way:
        assert name not in WAYS
        WAYS[name] = function
        return function

    return add


def get(connection: socket.socket) -> str:
    """Send an HTTP request over `connection`; return the last line of the answer."""
    connection.settimeout(SECONDS)
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with connection.makefile(errors="replace") as answer:
        return answer.read().split("\n")[-2]


def page(host: str, port: int = 80) -> str:
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        return get(connection)


def page_by(family: int, address: tuple[object, ...], *options: tuple[int, int, object]) -> str:
    """Request a page over a socket with the socket `options`; return the web server's answer."""
    with socket.socket(family) as connection:
        connection.settimeout(SECONDS)
        for level, option, value in options:
            connection.setsockopt(level, option, value)  # type: ignore[call-overload]
        connection.connect(address)
        return get(connection)


def ask(
    family: int,
    address: tuple[object, ...],
    *control: tuple[int, int, bytes],
    options: tuple[tuple[int, int, object], ...] = (),
    query: bytes = QUERY,
) -> str:
    """Send `query` in a datagram with control messages; return the server's answer."""
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        datagrams.settimeout(SECONDS)
        for level, option, value in options:
            datagrams.setsockopt(level, option, value)  # type: ignore[call-overload]
        datagrams.sendmsg([query], control, 0, address)
        return datagrams.recv(512).hex()


def send(
    family: int, address: tuple[object, ...], name: str, *options: tuple[int, int, object]
) -> str:
    """Send `name` as a datagram to a service on the simulated host that records datagrams."""
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        for level, option, value in options:
            datagrams.setsockopt(level, option, value)  # type: ignore[call-overload]
        datagrams.sendto(name.encode(), address)
    # Report failure in any case: only the services' records, which the test queries, show whether
    # the datagram has arrived.
    raise OSError("sent")


def as_number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "big")


def embedded(prefix: str, address: str, suffix: str = "") -> str:
    """Return an IPv6 address in which an IPv4 address follows `prefix`."""
    text = socket.inet_aton(address).hex()
    return f"{prefix}{text[:4]}:{text[4:]}{suffix}"


def _add_connections() -> None:
    """Add to WAYS those attacks that only connect to an address."""
    hosts: dict[str, Callable[[Targets], str]] = {
        "the loopback address": lambda _: "127.0.0.1",
        "another loopback address": lambda _: "127.9.9.9",
        "the loopback address of IPv6": lambda _: "::1",
        "the name localhost": lambda _: "localhost",
        "the unspecified address": lambda _: "0.0.0.0",
        "the unspecified address of IPv6": lambda _: "::",
        "the loopback address, IPv4-mapped": lambda _: "::ffff:127.0.0.1",
        "the loopback address, as a decimal number": lambda _: "2130706433",
        "the machine's address": lambda to: to.machine,
        "the machine's secondary address": lambda to: to.machine_2,
        "the machine's IPv6 address": lambda to: to.machine_6,
        "the address of another device of the machine": lambda to: to.bridge,
        "the IPv6 address of another device of the machine": lambda to: to.bridge_6,
        "the machine's address, IPv4-mapped": lambda to: f"::ffff:{to.bridge}",
        "the machine's address, as a decimal number": lambda to: str(as_number(to.bridge)),
        "the machine's address, as a hexadecimal number": lambda to: hex(as_number(to.bridge)),
        "the machine's address, in octal numbers": lambda to: ".".join(
            f"0{int(part):o}" for part in to.bridge.split(".")
        ),
        "the machine's address through NAT64": lambda to: embedded("64:ff9b::", to.bridge),
        "the machine's address through 6to4": lambda to: embedded("2002:", to.bridge, "::1"),
        "the machine's address, IPv4-compatible": lambda to: embedded("::", to.bridge),
        "the machine's link-local address": lambda to: f"{to.link_local}%{to.device}",
        "the gateway": lambda to: to.router,
        "the IPv6 gateway": lambda to: to.router_6,
        "the metadata service": lambda to: to.metadata,
        "the IPv6 metadata service": lambda to: to.metadata_6,
        "a name that leads to the metadata service": lambda _: "metadata.example",
        "a name that leads to the loopback address": lambda _: "loopback.example",
        "the address of the name server inside, on another port": lambda _: "169.254.1.1",
    }
    for name, host in hosts.items():
        WAYS[name] = lambda to, host=host: page(host(to))  # type: ignore[misc]
    for name, host in {
        "a published port of another sandbox": lambda _: "127.0.0.1",
        "a published port of another sandbox, by the machine's address": lambda to: to.machine,
    }.items():
        WAYS[name] = lambda to, host=host: page(host(to), to.published)  # type: ignore[misc]
    for name, host in {
        "an address that is not allowed": lambda to: to.other,
        "an address that is not allowed, IPv4-mapped": lambda to: f"::ffff:{to.other}",
        "a neighbour of the machine": lambda to: to.neighbour,
    }.items():
        WAYS[name] = lambda to, host=host: page(host(to))  # type: ignore[misc]
    WAYS["a port that is not allowed"] = lambda to: page(to.web, 8080)
    WAYS["a name server of the internet (DNS tunnel)"] = lambda to: ask(
        socket.AF_INET, (to.dns, 53)
    )
    WAYS["the name server inside (DNS tunnel)"] = lambda _: ask(socket.AF_INET, ("169.254.1.1", 53))
    WAYS["a name (DNS tunnel)"] = lambda _: socket.gethostbyname("web.example")


_add_connections()


@way("a socket bound to the device (SO_BINDTODEVICE)")
def _(to: Targets) -> str:
    device = to.device.encode() + b"\0"
    option = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    return page_by(socket.AF_INET, (to.bridge, 80), option)


@way("the loopback address, by a socket bound to the device (SO_BINDTODEVICE)")
def _(to: Targets) -> str:
    device = to.device.encode() + b"\0"
    option = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    return page_by(socket.AF_INET, ("127.0.0.1", 80), option)


@way("a datagram of a bound socket, IPv4-mapped (SO_BINDTODEVICE)")
def _(to: Targets) -> str:
    option = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, to.device.encode() + b"\0")
    return ask(socket.AF_INET6, (f"::ffff:{to.bridge}", 53), options=(option,))


@way("datagrams of a bound socket that the kernel splits (UDP_SEGMENT)")
def _(to: Targets) -> str:
    device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, to.device.encode() + b"\0")
    size = (socket.IPPROTO_UDP, UDP_SEGMENT, len(QUERY))
    return ask(socket.AF_INET, (to.bridge, 53), options=(device, size), query=4 * QUERY)


@way("a socket that uses no gateway (SO_DONTROUTE)")
def _(to: Targets) -> str:
    option = (socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    return page_by(socket.AF_INET, (to.bridge, 80), option)


@way("a socket that uses no gateway, to the metadata service (SO_DONTROUTE)")
def _(to: Targets) -> str:
    option = (socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    return page_by(socket.AF_INET, (to.metadata, 80), option)


@way("an IPv6 socket of the device's scope")
def _(to: Targets) -> str:
    return page_by(socket.AF_INET6, (to.bridge_6, 80, 0, to.index()))


@way("a socket that names the device (IP_UNICAST_IF)")
def _(to: Targets) -> str:
    option = (socket.IPPROTO_IP, IP_UNICAST_IF, struct.pack("!I", to.index()))
    return ask(socket.AF_INET, (to.bridge, 53), options=(option,))


@way("an IPv6 socket that names the device (IPV6_UNICAST_IF)")
def _(to: Targets) -> str:
    option = (socket.IPPROTO_IPV6, IPV6_UNICAST_IF, struct.pack("!I", to.index()))
    return page_by(socket.AF_INET6, (to.bridge_6, 80), option)


@way("a datagram that names the device (IP_PKTINFO)")
def _(to: Targets) -> str:
    info = struct.pack("@i8x", to.index())
    return ask(socket.AF_INET, (to.bridge, 53), (socket.IPPROTO_IP, IP_PKTINFO, info))


@way("a datagram from the machine's address (IP_PKTINFO)")
def _(to: Targets) -> str:
    info = struct.pack("@i4s4x", to.index(), socket.inet_aton(to.bridge))
    return ask(socket.AF_INET, (to.bridge, 53), (socket.IPPROTO_IP, IP_PKTINFO, info))


@way("an IPv6 datagram that names the device (IPV6_PKTINFO)")
def _(to: Targets) -> str:
    control = (socket.IPPROTO_IPV6, IPV6_PKTINFO, bytes(16) + struct.pack("@i", to.index()))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams:
        name = b"an IPv6 datagram that names the device (IPV6_PKTINFO)"
        datagrams.sendmsg([name], [control], 0, (to.bridge_6, 5353))
    raise OSError("sent")


@way("an IPv6 socket bound to the link-local address of the device")
def _(to: Targets) -> str:
    # Wait until the kernel has finished duplicate address detection: before that, the kernel does
    # not use the link-local address.
    deadline = time.monotonic() + SECONDS
    here = ""
    while not here.startswith("fe80:") and time.monotonic() < deadline:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("fe80::1", 9, 0, to.index()))
            here = probe.getsockname()[0]
        time.sleep(0.05)
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(SECONDS)
        connection.bind((here, 0, 0, to.index()))
        connection.connect((to.bridge_6, 80))
        return get(connection)


@way("a datagram to the machine")
def _(to: Targets) -> str:
    return ask(socket.AF_INET, (to.bridge, 53))


@way("a datagram in fragments")
def _(to: Targets) -> str:
    return ask(socket.AF_INET, (to.bridge, 53), query=QUERY + bytes(60000))


@way("a socket from the machine's address (IP_TRANSPARENT)")
def _(to: Targets) -> str:
    with socket.socket() as connection:
        connection.settimeout(SECONDS)
        connection.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
        connection.bind((to.bridge, 0))
        connection.connect((to.machine, 80))
        return get(connection)


@way("a socket from the machine's address (IP_FREEBIND)")
def _(to: Targets) -> str:
    with socket.socket() as connection:
        connection.settimeout(SECONDS)
        connection.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        connection.bind((to.bridge, 0))
        connection.connect((to.machine, 80))
        return get(connection)


@way("a source route to the machine (IP_OPTIONS)")
def _(to: Targets) -> str:
    hop = socket.inet_aton(to.machine)
    option = (socket.IPPROTO_IP, IP_OPTIONS, b"\x83\x07\x04" + hop + b"\0")
    return page_by(socket.AF_INET, (to.bridge, 80), option)


@way("a source route through a server of the internet (IP_OPTIONS)")
def _(to: Targets) -> str:
    hop = socket.inet_aton(to.web)
    option = (socket.IPPROTO_IP, IP_OPTIONS, b"\x83\x07\x04" + hop + b"\0")
    return ask(socket.AF_INET, (to.bridge, 53), options=(option,))


@way("a routing header of IPv6 (IPV6_RTHDR)")
def _(to: Targets) -> str:
    hop = socket.inet_pton(socket.AF_INET6, to.machine_6)
    header = b"\0\2\2\1" + bytes(4) + hop
    option = (socket.IPPROTO_IPV6, IPV6_RTHDR, header)
    return page_by(socket.AF_INET6, (to.bridge_6, 80), option)


@way("data in the first packet (MSG_FASTOPEN)")
def _(to: Targets) -> str:
    with socket.socket() as connection:
        timeout = struct.pack("@ll", SECONDS, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        connection.sendto(b"GET / HTTP/1.0\r\n\r\n", socket.MSG_FASTOPEN, (to.bridge, 80))
        return get(connection)


@way("data in the first packet of a bound socket (TCP_FASTOPEN_CONNECT)")
def _(to: Targets) -> str:
    device = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, to.device.encode() + b"\0")
    option = (socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
    return page_by(socket.AF_INET, (to.bridge, 80), device, option)


@way("a datagram of UDP-Lite")
def _(to: Targets) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_UDPLITE) as datagrams:
        datagrams.settimeout(SECONDS)
        datagrams.sendto(QUERY, (to.bridge, 53))
        return datagrams.recv(512).hex()


@way("sockets of DCCP and L2TP")
def _(_: Targets) -> str:
    with contextlib.suppress(OSError):
        socket.socket(socket.AF_INET, SOCK_DCCP, IPPROTO_DCCP).close()
        return "DCCP"
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM, IPPROTO_L2TP).close()
    return "L2TP"


@way("a socket of Multipath TCP")
def _(to: Targets) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as connection:
        connection.settimeout(SECONDS)
        connection.connect((to.bridge, 80))
        return get(connection)


@way("an association of SCTP")
def _(to: Targets) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP) as connection:
        connection.settimeout(SECONDS)
        connection.connect((to.bridge, 80))
        return "connected"


@way("a socket to the hypervisor (AF_VSOCK)")
def _(_: Targets) -> str:
    with socket.socket(socket.AF_VSOCK) as connection:
        connection.settimeout(SECONDS)
        connection.connect((socket.VMADDR_CID_HOST, 22))
        return "connected"


@way("other families of sockets")
def _(_: Targets) -> str:
    found = []
    # Unix, IPv4, IPv6, netlink and packet sockets are excluded, because other functions try them.
    for family in set(range(1, 46)) - {1, 2, 10, 16, 17}:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            with contextlib.suppress(OSError):
                socket.socket(family, kind).close()
                found.append(str(family))
    if not found:
        raise OSError("no other family")
    return " ".join(found)


@way("a raw socket of IPv4")
def _(_: Targets) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW).close()
    return "opened"


@way("a raw socket of IPv6")
def _(_: Targets) -> str:
    socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6).close()
    return "opened"


@way("a packet socket")
def _(_: Targets) -> str:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    return "opened"


@way("an echo request to the machine (ICMP)")
def _(to: Targets) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as echo:
        echo.settimeout(SECONDS)
        echo.sendto(b"\x08\0" + bytes(6), (to.bridge, 0))
        return echo.recv(512).hex()


@way("an echo request to the machine (ICMPv6)")
def _(to: Targets) -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6) as echo:
        echo.settimeout(SECONDS)
        echo.sendto(b"\x80\0" + bytes(6), (to.bridge_6, 0, 0, to.index()))
        return echo.recv(512).hex()


@way("a multicast datagram")
def _(to: Targets) -> str:
    name = "a multicast datagram"
    source = struct.pack("@4s4si", bytes(4), bytes(4), to.index())
    option = (socket.IPPROTO_IP, socket.IP_MULTICAST_IF, source)
    return send(socket.AF_INET, ("224.0.0.251", 5353), name, option)


@way("a multicast datagram of IPv6")
def _(to: Targets) -> str:
    address = ("ff02::fb", 5353, 0, to.index())
    return send(socket.AF_INET6, address, "a multicast datagram of IPv6")


@way("a broadcast datagram")
def _(_: Targets) -> str:
    option = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    address = ("255.255.255.255", 5353)
    return send(socket.AF_INET, address, "a broadcast datagram", option)


@way("a broadcast datagram of the machine's network")
def _(to: Targets) -> str:
    option = (socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    name = "a broadcast datagram of the machine's network"
    return send(socket.AF_INET, (to.broadcast, 5353), name, option)


@way("an abstract Unix socket of the machine")
def _(to: Targets) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SECONDS)
        connection.connect("\0" + to.abstract)
        return get(connection)


def request(kind: int, flags: int, body: bytes) -> str:
    """Send a request to rtnetlink; return "accepted", or raise the kernel's error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(SECONDS)
        # The flags 5 are NLM_F_REQUEST | NLM_F_ACK.
        netlink.send(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body)
        answer = netlink.recv(4096)
        kind, code = struct.unpack_from("=H", answer, 4)[0], struct.unpack_from("=i", answer, 16)[0]
        if kind != 2 or code:
            raise OSError(-code, os.strerror(-code) if kind == 2 else "no acknowledgement")
        return "accepted"


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value


def route_to(to: Targets, address: str) -> bytes:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 4, 253, 1, 0)
    device = attribute(4, struct.pack("=I", to.index()))
    return head + attribute(1, socket.inet_aton(address)) + device


@way("a new route (netlink)")
def _(to: Targets) -> str:
    return request(RTM_NEWROUTE, 0x500, route_to(to, to.bridge))


@way("a removed route (netlink)")
def _(to: Targets) -> str:
    head = struct.pack("=BBBBBBBBI", socket.AF_INET, 32, 0, 0, 254, 0, 0, 7, 0)
    return request(RTM_DELROUTE, 0, head + attribute(1, socket.inet_aton(to.bridge)))


@way("a new address (netlink)")
def _(to: Targets) -> str:
    head = struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, to.index())
    address = socket.inet_aton("10.9.9.9")
    return request(RTM_NEWADDR, 0x500, head + attribute(2, address) + attribute(1, address))


@way("a changed device (netlink)")
def _(to: Targets) -> str:
    return request(RTM_NEWLINK, 0, struct.pack("=BBHiII", 0, 0, 0, to.index(), 0, 1))


@way("a new device (netlink)")
def _(_: Targets) -> str:
    head = struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0)
    kind = attribute(18, attribute(1, b"dummy\0\0\0"))
    return request(RTM_NEWLINK, 0x600, head + attribute(3, b"new\0") + kind)


@way("a new routing rule (netlink)")
def _(_: Targets) -> str:
    return request(RTM_NEWRULE, 0x600, struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 252, 0, 0, 1, 0))


@way("removed rules of the packet filter (nftables)")
def _(_: Targets) -> str:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.settimeout(SECONDS)
        # Send NFNL_MSG_BATCH_BEGIN, NFT_MSG_DELTABLE for all tables, and NFNL_MSG_BATCH_END.
        for kind, family, group in ((0x10, 0, 10), (0xA02, 0, 0), (0x11, 0, 10)):
            netlink.send(struct.pack("=IHHIIBBH", 20, kind, 5, 1, 0, family, 0, group))
        answer = netlink.recv(4096)
        code = struct.unpack_from("=i", answer, 16)[0]
        if code:
            raise OSError(-code, os.strerror(-code))
        return "accepted"


def change(request: int, value: bytes) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, value)
    return "accepted"


@way("a new address (ioctl)")
def _(to: Targets) -> str:
    address = struct.pack("@HH4s8x", socket.AF_INET, 0, socket.inet_aton("10.9.9.9"))
    return change(SIOCSIFADDR, to.device.encode().ljust(16, b"\0") + address.ljust(24, b"\0"))


@way("a changed device (ioctl)")
def _(to: Targets) -> str:
    return change(SIOCSIFFLAGS, to.device.encode().ljust(16, b"\0") + bytes(24))


@way("a device of its own (TUN)")
def _(_: Targets) -> str:
    with open("/dev/net/tun", "r+b", buffering=0) as tun:
        fcntl.ioctl(tun, TUNSETIFF, b"own".ljust(16, b"\0") + b"\1\0".ljust(24, b"\0"))
    return "made"


@way("a mark of packets (SO_MARK)")
def _(to: Targets) -> str:
    option = (socket.SOL_SOCKET, socket.SO_MARK, 1)
    return page_by(socket.AF_INET, (to.bridge, 80), option)


@way("sockets of the machine in /proc/net")
def _(to: Targets) -> str:
    wanted = f"@{to.abstract}"
    for file in ("/proc/net/unix", "/proc/self/net/unix", "/proc/1/net/unix"):
        with open(file) as lines:
            if wanted in lines.read():
                return file
    raise OSError("not listed")


@way("the network namespace of another process")
def _(to: Targets) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    for file in glob.glob("/proc/[0-9]*/ns/net"):
        with contextlib.suppress(OSError), open(file) as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) == 0:
                return page(to.bridge)
    raise OSError("no namespace can be joined")


@way("usernsctl's network programs in /proc")
def _(_: Targets) -> str:
    helpers = ("pasta", "nft", "usernsctl-network", "usernsctl-watch", "proxy_child")
    for directory in glob.glob("/proc/[0-9]*"):
        # Ignore a process that exits while its files in /proc are read.
        with contextlib.suppress(OSError):
            with open(f"{directory}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
            if any(os.path.basename(word).startswith(helpers) for word in words[:2]):
                with open(f"{directory}/environ", "rb") as file:
                    return " ".join(words) + file.read().decode(errors="replace")
    raise OSError("none is seen")


def attempt(name: str, to: Targets) -> tuple[str, str]:
    """Try the way out `name`; return "reached" or "failed", and a description of the result."""
    try:
        return "reached", WAYS[name](to)
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def main(words: list[str]) -> None:
    to = Targets(words[0])
    results: dict[str, tuple[str, str]] = {}
    names = iter(words[1:] or list(WAYS))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                name = next(names, None)
            if name is None:
                return
            result = attempt(name, to)
            with lock:
                results[name] = result

    threads = [threading.Thread(target=work) for _ in range(MAX_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
