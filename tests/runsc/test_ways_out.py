"""Tests of known attacks on the network restrictions of a sandbox, in a virtual network.

tests/ways_out.py contains the attacks, which are called ways.


One sandbox of each kind tries all ways in one run. The same program on the simulated host shows
that the ways work unless something denies them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS, TREE
from networks import World
from ways_out import WAYS

# The first test needs a long timeout, because it tries all WAYS in each kind of sandbox.
pytestmark = pytest.mark.timeout(300)

USERNSCTL = str(SCRIPTS / "usernsctl")
PROGRAM = (Path(__file__).parent.parent / "ways_out.py").read_text()
PUBLISHED = 18080

#: Options of `usernsctl run` for each kind of sandbox.
KINDS = {
    "private": ["--network", "private"],
    "all-ranges": ["--allow", "0.0.0.0/0", "--allow", "::/0"],
    "one-range": ["--allow", f"{networks.WEB}/32:80", "--publish", "127.0.0.1:18081:80"],
    "names": ["--allow", "web.example"],
    "published": ["--network", "none", "--publish", "127.0.0.1:18082:80"],
}
# Kinds of sandboxes that may reach all hosts except the simulated host and metadata services.
OPEN_KINDS = ("private", "all-ranges")
#: Names of WAYS that reach a host other than the simulated host. They succeed in sandboxes of
#: OPEN_KINDS.
TO_OTHERS = {
    "an address that is not allowed",
    "an address that is not allowed, IPv4-mapped",
    "a neighbour of the machine",
    "a port that is not allowed",
    "a name server of the internet (DNS tunnel)",
    "the name server inside (DNS tunnel)",
    "a name (DNS tunnel)",
}
#: Names of WAYS that, on the simulated host, would change the host's network.
CHANGES = {name for name in WAYS if name.endswith(("(netlink)", "(ioctl)", "(nftables)", "(TUN)"))}
#: Names of WAYS that may fail on the simulated host itself, because the host or the kernel may lack
#: the attacked service.
NOT_ON_THE_MACHINE = {
    "the machine's address through NAT64",
    "the machine's address through 6to4",
    "the machine's address, IPv4-compatible",
    "the address of the name server inside, on another port",
    "the name server inside (DNS tunnel)",
    "a socket bound to the device (SO_BINDTODEVICE)",
    "the loopback address, by a socket bound to the device (SO_BINDTODEVICE)",
    "a datagram of a bound socket, IPv4-mapped (SO_BINDTODEVICE)",
    "datagrams of a bound socket that the kernel splits (UDP_SEGMENT)",
    "data in the first packet of a bound socket (TCP_FASTOPEN_CONNECT)",
    "a socket that uses no gateway, to the metadata service (SO_DONTROUTE)",
    "a datagram of UDP-Lite",
    "sockets of DCCP and L2TP",
    "a socket that names the device (IP_UNICAST_IF)",
    "a datagram that names the device (IP_PKTINFO)",
    "a datagram from the machine's address (IP_PKTINFO)",
    "an IPv6 datagram that names the device (IPV6_PKTINFO)",
    "a source route to the machine (IP_OPTIONS)",
    "a source route through a server of the internet (IP_OPTIONS)",
    "a routing header of IPv6 (IPV6_RTHDR)",
    "data in the first packet (MSG_FASTOPEN)",
    "a socket of Multipath TCP",
    "an association of SCTP",
    "a socket to the hypervisor (AF_VSOCK)",
    "other families of sockets",
    "an IPv6 socket bound to the link-local address of the device",
    "an echo request to the machine (ICMP)",
    "an echo request to the machine (ICMPv6)",
    "the network namespace of another process",
}
#: Names of WAYS that would succeed in a private network without its packet filter.
ONLY_FILTERED = {
    "a socket bound to the device (SO_BINDTODEVICE)",
    "a datagram of a bound socket, IPv4-mapped (SO_BINDTODEVICE)",
    "datagrams of a bound socket that the kernel splits (UDP_SEGMENT)",
    "data in the first packet of a bound socket (TCP_FASTOPEN_CONNECT)",
    "a socket that uses no gateway, to the metadata service (SO_DONTROUTE)",
    "a datagram that names the device (IP_PKTINFO)",
    "an IPv6 socket bound to the link-local address of the device",
    "the machine's link-local address",
    "the metadata service",
    "a name that leads to the metadata service",
}


# Web server that runs in the neighbouring sandbox.
NEIGHBOUR = """
import socket
server = socket.create_server(("", 80))
print("up", flush=True)
while True:
    connection, _ = server.accept()
    with connection:
        connection.recv(512)
        connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nneighbour\\n")
"""


@contextlib.contextmanager
def targets(world: World) -> Iterator[dict[str, object]]:
    """Run a neighbouring sandbox with a published port; yield the addresses that WAYS attack."""
    shown = world.run("ip", "-6", "-o", "addr", "show", "dev", "lan", "scope", "link").stdout
    command = [USERNSCTL, "run", "--network", "private", "--publish", f"0.0.0.0:{PUBLISHED}:80"]
    with subprocess.Popen(
        world.command(*command, "--", "/usr/bin/python3", "-c", NEIGHBOUR),
        stdout=subprocess.PIPE,
        text=True,
    ) as neighbour:
        assert neighbour.stdout is not None
        assert neighbour.stdout.readline() == "up\n"
        yield {
            "web": networks.WEB,
            "other": networks.OTHER_WEB,
            "dns": networks.DNS,
            "neighbour": networks.NEIGHBOUR,
            "machine": networks.MACHINE,
            "machine_2": networks.MACHINE_2,
            "machine_6": networks.MACHINE_6,
            "bridge": networks.BRIDGE,
            "bridge_6": networks.BRIDGE_6,
            "link_local": shown.split()[3].split("/")[0],
            "router": networks.ROUTER,
            "router_6": networks.ROUTER_6,
            "metadata": networks.METADATA,
            "metadata_6": networks.METADATA_6,
            "broadcast": networks.BROADCAST,
            "abstract": networks.ABSTRACT,
            "published": PUBLISHED,
        }
        neighbour.kill()


# Script that runs a command while /bin/true is mounted over nft, so that no packet filter is
# installed.
NO_FILTER = 'mount --bind /bin/true /usr/sbin/nft; exec "$@"'

Results = dict[str, list[str]]


def run_ways(
    world: World, targets: dict[str, object], device: str, command: list[str], names: set[str]
) -> Results:
    words = [json.dumps({**targets, "device": device}), *names]
    done = world.run(*command, "-c", PROGRAM, *words, timeout=110)
    assert done.returncode == 0, done.stderr
    results: Results = json.loads(done.stdout)
    assert set(results) == names
    return results


def received(world: World) -> set[str]:
    """Return the datagrams that the services of the simulated host and the router have received."""
    ask = (
        "import sys, urllib.request as u\n"
        "for host in sys.argv[1:]: print(u.urlopen(f'http://{host}/datagrams').read().decode())"
    )
    hosts = [networks.MACHINE, networks.ROUTER]
    done = world.run(sys.executable, "-c", ask, *hosts, env={"no_proxy": "*"})
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")) - {""}


def try_all(world: World, addresses: dict[str, object]) -> dict[str, Results]:
    """Try all WAYS in each kind of sandbox and on the simulated host; return the results."""

    def command(kind: str) -> list[str]:
        return [USERNSCTL, "run", *KINDS[kind], "--", "/usr/bin/python3"]

    def run(kind: str) -> Results:
        device = "lo" if kind in ("names", "published") else "eth0"
        return run_ways(world, addresses, device, command(kind), set(WAYS))

    with ThreadPoolExecutor(3) as pool:
        found = dict(zip(KINDS, pool.map(run, KINDS), strict=True))
    for name in received(world):
        for kind in KINDS:
            found[kind][name] = ["reached", "a service"]
    unfiltered = ["unshare", "--mount", "sh", "-ec", NO_FILTER, "sh", *command("private")]
    found["unfiltered"] = run_ways(world, addresses, "eth0", unfiltered, ONLY_FILTERED)
    found["machine"] = run_ways(world, addresses, "lan", [sys.executable], set(WAYS) - CHANGES)
    for name in received(world):
        found["machine"][name] = ["reached", "a service"]
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """Return the results of :func:`try_all`, which only one of pytest-xdist's workers calls."""
    directory = tmp_path_factory.getbasetemp()
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    file = (directory.parent if run else directory) / f"ways-out-{run}.json"
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            with (
                networks.world(tmp_path_factory.mktemp("world")) as world,
                targets(world) as addresses,
            ):
                file.write_text(json.dumps(try_all(world, addresses)))
        found: dict[str, Results] = json.loads(file.read_text())
        return found


@pytest.mark.parametrize("name", WAYS)
def test_way_out_is_blocked(results: dict[str, Results], name: str) -> None:
    found = {kind: results[kind][name] for kind in KINDS}
    expected = OPEN_KINDS if name in TO_OTHERS else ()
    assert [kind for kind in KINDS if found[kind][0] == "reached"] == [*expected], found


def test_filtered_ways_work_without_the_packet_filter(results: dict[str, Results]) -> None:
    found = results["unfiltered"]
    assert [item for item in found.items() if item[1][0] != "reached"] == []


def test_ways_reach_services_from_the_host(results: dict[str, Results]) -> None:
    found = {name: found for name, found in results["machine"].items() if found[0] != "reached"}
    assert set(found) <= NOT_ON_THE_MACHINE, found


PAGE = (TREE / "docs" / "ways-out.md").read_text()


def test_page_lists_the_ways() -> None:
    rows = [line.split("|")[1].strip() for line in PAGE.splitlines() if line.startswith("| ")]
    assert [name for name in WAYS if name not in rows] == []


def test_page_names_tests_that_exist() -> None:
    names = re.findall(r"`(test_\w+)`", PAGE)
    assert len(names) > 20
    sources = "".join(file.read_text() for file in (TREE / "tests").rglob("test_*.py"))
    assert [name for name in names if f"def {name}(" not in sources and name not in sources] == []
