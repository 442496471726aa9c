"""Virtual network of network namespaces: a machine, its neighbour and router, and an internet.

The machine is the simulated host on which tests start sandboxes (:meth:`World.run`). It has a
default route, a separate route to the metadata service, as in some clouds, a name server, and
services that no sandbox may reach. No packet leaves the virtual network, since its namespaces have
only virtual devices. The network is created in a user namespace, so no test needs root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Addresses of the simulated host: two IPv4 addresses of the device with the default route and one
# of another device; then the IPv6 address of each device, of which pasta copies only MACHINE_6, and
# the anycast address of BRIDGE_6's subnet.
MACHINE, MACHINE_2, BRIDGE = "10.77.0.2", "10.77.0.3", "172.30.0.1"
MACHINE_6, BRIDGE_6, BRIDGE_ANYCAST_6 = "fd77::2", "fd78::1", "fd78::"
ROUTER, ROUTER_6 = "10.77.0.1", "fd77::1"
NEIGHBOUR, BROADCAST = "10.77.0.9", "10.77.0.255"
#: Addresses on the simulated internet: of two web servers, the first of which has an IPv6 address,
#: too, and of a name server.
WEB, OTHER_WEB, WEB_6, DNS = "198.51.100.7", "203.0.113.9", "2001:db8::7", "198.51.100.53"
METADATA, METADATA_6 = "169.254.169.254", "fd00:ec2::254"
#: Addresses of other metadata services: IPv4 addresses of Alibaba, Azure and Oracle; then IPv6
#: addresses of Google, Oracle, Akamai, Scaleway and Alibaba.
OTHER_METADATA = ("100.100.100.200", "168.63.129.16", "192.0.0.192")
OTHER_METADATA_6 = (
    *("fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:a9fe:a9fe::1", "fd00:42::42"),
    "fd00:100::100:200",
)
#: Addresses of a server on the simulated internet, with prefixes of IPv6 translators (NAT64).
WEB_64, LOCAL_64 = "64:ff9b::c633:6407", "64:ff9b:1::c633:6407"
BRIDGE_64, METADATA_64 = "64:ff9b::ac1e:1", "64:ff9b::a9fe:a9fe"
#: Names that the name server resolves, and their addresses.
NAMES = {
    "web.example": WEB,
    "www.web.example": WEB,
    "other.example": OTHER_WEB,
    "private.example": NEIGHBOUR,
    "metadata.example": METADATA,
    "loopback.example": "127.0.0.1",
}
#: Ports of the web servers on the simulated internet and on the simulated host.
PORTS = (80, 443, 8080)
#: Name of an abstract Unix socket on the simulated host.
ABSTRACT = "usernsctl-test-world"
#: Program that sends a request to each web server ADDRESS/PORT in its arguments, and prints the
#: answer or error.
ASK = """
import socket, sys
for word in sys.argv[1:]:
    address, _, port = word.rpartition("/")
    try:
        with socket.create_connection((address, int(port)), timeout=3) as connection:
            connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            print(word, connection.makefile().read().split("\\n")[-2])
    except OSError as error:
        print(word, type(error).__name__)
"""

_OUTSIDE = f"""
ip link set lo up
ip link set outer name lan
ip addr add {ROUTER}/24 dev lan; ip addr add {NEIGHBOUR}/24 dev lan
ip -6 addr add {ROUTER_6}/64 dev lan nodad
for address in {WEB} {OTHER_WEB} {DNS} {METADATA} {" ".join(OTHER_METADATA)}; do
    ip addr add $address/32 dev lo
done
ip -6 addr add {WEB_6}/128 dev lo nodad; ip -6 addr add {METADATA_6}/128 dev lo nodad
for address in {WEB_64} {LOCAL_64} {BRIDGE_64} {METADATA_64} {" ".join(OTHER_METADATA_6)}; do
    ip -6 addr add $address/128 dev lo nodad
done
ip link set lan up
"""

_MACHINE = f"""
ip link set lo up
ip link add lan type veth peer name outer netns $1
ip addr add {MACHINE}/24 dev lan; ip addr add {MACHINE_2}/24 dev lan
ip -6 addr add {MACHINE_6}/64 dev lan nodad
ip link set lan up
ip link add bridge type veth peer name port; ip addr add {BRIDGE}/16 dev bridge
ip -6 addr add {BRIDGE_6}/64 dev bridge nodad
ip link set bridge up; ip link set port up
ip route add default via {ROUTER}; ip -6 route add default via {ROUTER_6}
ip route add {METADATA}/32 via {ROUTER}
mount --bind $2 /etc/resolv.conf
"""

# Script that waits until no route has the flag "linkdown", because pasta can't copy such routes
# (EINVAL). The kernel removes the flag when it notices that the route's device is connected.
_WAIT_FOR_LINKS = """
while ip route | grep -q linkdown || ip -6 route | grep -q linkdown; do sleep 0.01; done
"""

# Program that runs a web server on each port, and a name server on one address. The web servers
# answer with the address to which a client has connected. At /datagrams, they list the datagrams,
# including multicasts, that the program has received on port 5353.
_SERVERS = """
import selectors, socket, struct, sys
names, ports, kind = eval(sys.argv[1]), eval(sys.argv[2]), sys.argv[3]
selector = selectors.DefaultSelector()
for port in ports:
    server = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    selector.register(server, selectors.EVENT_READ, "web")
if kind == "machine":
    server = socket.socket(socket.AF_UNIX)
    server.bind("\\0" + sys.argv[4])
    server.listen()
    selector.register(server, selectors.EVENT_READ, "unix")
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[5], 53))
selector.register(server, selectors.EVENT_READ, "dns")
datagrams, lan = [], socket.if_nametoindex("lan")
server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                  socket.inet_pton(socket.AF_INET6, "ff02::fb") + struct.pack("@i", lan))
server.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP,
                  socket.inet_aton("224.0.0.251") + struct.pack("@4xi", lan))
server.bind(("::", 5353))
selector.register(server, selectors.EVENT_READ, "datagrams")

def answer(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12 : at + 5]
    address = names.get(".".join(labels).lower())
    found = address is not None and query[at + 1 : at + 3] == b"\\0\\1"
    code = b"\\x81\\x80" if address is not None else b"\\x81\\x83"
    head = query[:2] + code + b"\\0\\1" + (b"\\0\\1" if found else b"\\0\\0") + b"\\0\\0\\0\\0"
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4"
    return head + question + (record + socket.inet_aton(address) if found else b"")

print("ready", flush=True)
while True:
    for key, _ in selector.select():
        if key.data == "dns":
            query, client = key.fileobj.recvfrom(512)
            key.fileobj.sendto(answer(query), client)
            continue
        if key.data == "datagrams":
            datagrams.append(key.fileobj.recv(512).decode(errors="replace"))
            continue
        connection, _ = key.fileobj.accept()
        with connection:
            connection.settimeout(2)
            try:
                asked = connection.recv(65536)
                here = connection.getsockname()
                text = f"{kind} {here[0] if here else ''}\\n".encode()
                if asked.startswith(b"GET /datagrams"):
                    text = ("\\n".join(datagrams) + "\\n").encode()
                head = b"HTTP/1.0 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(text)
                connection.sendall(head + text)
            except OSError:
                pass
"""


class World:
    """A virtual network: its namespaces and the processes in them."""

    def __init__(self, undo: contextlib.ExitStack, directory: Path) -> None:
        self._undo = undo
        ip = shutil.which("ip", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
        assert ip is not None, "install iproute2"
        kept = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation"]
        self.machine = self._start([*kept, "private", "sh", "-c", _HOLD])
        self.outside = self._start([*self._enter("-U", "-m"), "unshare", "-n", "sh", "-c", _HOLD])
        resolver = directory / "resolv.conf"
        resolver.write_text(f"nameserver {DNS}\n")
        self._script(self.machine, _MACHINE, str(self.outside.pid), str(resolver))
        self._script(self.outside, _OUTSIDE)
        self._script(self.machine, _WAIT_FOR_LINKS)
        self._serve(self.outside, "outside", "", DNS)
        self._serve(self.machine, "machine", ABSTRACT, BRIDGE)

    def _start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

        def end() -> None:
            popen.kill()
            popen.communicate()

        self._undo.callback(end)
        assert popen.stdout is not None
        assert popen.stdout.readline().startswith("ready")
        return popen

    def _enter(self, *namespaces: str, of: subprocess.Popen[str] | None = None) -> list[str]:
        target = str((of or self.machine).pid)
        return ["nsenter", "-t", target, "--preserve-credentials", *namespaces]

    def _script(self, where: subprocess.Popen[str], script: str, *words: str) -> None:
        command = [*self._enter("-U", "-m", "-n", of=where), "sh", "-euc", script, "sh", *words]
        environment = {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr

    def _serve(self, where: subprocess.Popen[str], kind: str, *words: str) -> None:
        arguments = [repr(NAMES), repr(PORTS), kind, *words]
        enter = self._enter("-U", "-m", "-n", of=where)
        self._start([*enter, sys.executable, "-c", _SERVERS, *arguments])

    def serve_outside(self, *command: str) -> None:
        """Start a server on the simulated internet; kill it when the virtual network is removed."""
        enter = self._enter("-U", "-m", "-n", of=self.outside)
        popen = subprocess.Popen([*enter, *command], stdout=subprocess.DEVNULL)
        self._undo.callback(popen.wait)
        self._undo.callback(popen.kill)

    def command(self, *command: str) -> list[str]:
        """Return the argv that runs `command` on the simulated host."""
        return [*self._enter("-U", "-m", "-n"), *command]

    def run(
        self, *command: str, timeout: float = 60, env: Mapping[str, str] | None = None, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the simulated host, as root of its user namespace."""
        variables = dict(os.environ if env is None else env)
        variables["PATH"] = f"{variables.get('PATH', os.environ['PATH'])}:/usr/sbin:/sbin"
        return subprocess.run(
            self.command(*command),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=variables,
            **how,
        )

    @contextlib.contextmanager
    def serving(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Start a server on the simulated host; wait for "ready"; kill it after the block."""
        with subprocess.Popen(
            self.command(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as popen:
            assert popen.stdout is not None
            try:
                line = popen.stdout.readline()
                assert line == "ready\n", popen.stderr and popen.stderr.read()
                yield popen
            finally:
                popen.kill()
                popen.communicate()

    def ask(self, client: str, *words: object) -> str:
        """Run a Python client on the simulated host; return its output and last error line."""
        done = self.run("/usr/bin/python3", "-c", client, *map(str, words))
        return done.stdout.strip() + done.stderr.strip().rpartition("\n")[2]


_HOLD = "echo ready; exec cat"


@contextlib.contextmanager
def world(directory: Path) -> Iterator[World]:
    """Create and yield a virtual network whose files are in `directory`."""
    with contextlib.ExitStack() as undo:
        yield World(undo, directory)
