"""Tests of ``--publish .../udp`` in a virtual network (tests/networks.py)."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS
from networks import World
from processes import children_of
from sampling import tries

USERNSCTL = str(SCRIPTS / "usernsctl")

# Server that numbers its clients in the order of their first datagrams, and answers each datagram
# with the client's number and the datagram. A client that sends "hold" gets no answer at first.
# When any client sends "release", the server sends "late" to each client whose last datagram was
# "hold".
SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
clients, held = {}, set()
while True:
    data, client = server.recvfrom(65536)
    number = clients.setdefault(client, len(clients))
    held.discard(client)
    if data == b"hold":
        held.add(client)
        continue
    if data == b"release":
        for other in held:
            server.sendto(b"late", other)
    server.sendto(b"%d " % number + data, client)
"""

# Client that sends datagrams from several sockets, waits for the answers, and prints how many
# clients SERVER has distinguished.
CLIENT = """
import socket, sys
address, port, count, size = sys.argv[1], *map(int, sys.argv[2:])
family = socket.AF_INET6 if ":" in address else socket.AF_INET
found = set()
# Keep all sockets open, because the kernel may give the port of a closed one to the next.
clients = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
for client in clients:
    client.settimeout(20)
    client.connect((address, port))
    for _ in range(2):
        client.send(bytes(size))
        number, _, answer = client.recv(65536).partition(b" ")
        assert answer == bytes(size)
        found.add(number)
print(len(found))
"""


def serving(
    world: World, *options: str, port: int = 53
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Run SERVER in a sandbox with `options`; yield the process; stop it after the block."""
    server = ["/usr/bin/python3", "-c", SERVER, str(port)]
    return world.serving(USERNSCTL, "run", *options, "--", *server)


def ask(world: World, address: str, port: int, count: int = 1, size: int = 1000) -> str:
    return world.ask(CLIENT, address, port, count, size)


@pytest.mark.also_root
@pytest.mark.parametrize("network", ["private", "none"])
@pytest.mark.sampled(1)
def test_published_udp_port_reaches_the_sandbox(world: World, network: str) -> None:
    with serving(world, "--network", network, "--publish", "18053:53/udp"):
        # The server tells 20 clients apart, since the forwarder opens a separate socket in the
        # sandbox for each.
        assert ask(world, "127.0.0.1", 18053, 20) == "20"
        assert ask(world, "127.0.0.1", 18053, 1, size=60_000) == "1"
        assert ask(world, "127.0.0.1", 18053, 1, size=0) == "1"
        # The port is published on one address only, so datagrams to other addresses are refused.
        assert "ConnectionRefusedError" in ask(world, networks.MACHINE, 18053)


@pytest.mark.thorough
def test_more_udp_clients_than_sockets_are_served(world: World) -> None:
    with serving(world, "--publish", "18054:53/udp"):
        # Ports of sockets in the sandbox are reused, so SERVER takes some of the 600 clients for
        # the same client.
        assert int(ask(world, "127.0.0.1", 18054, 600, 10)) > 500


def test_udp_answers_come_from_the_requested_address(world: World) -> None:
    options = ("--publish", "0.0.0.0:18055:53/udp", "--publish", "[::]:18055:53/udp")
    with serving(world, *options):
        # CLIENT calls connect(2), so it receives datagrams only from the address that it has sent
        # to.
        for address in (networks.MACHINE, networks.MACHINE_2, networks.BRIDGE, "127.0.0.2"):
            assert ask(world, address, 18055) == "1"
        for address in (networks.MACHINE_6, networks.BRIDGE_6, "::1"):
            assert ask(world, address, 18055) == "1"


def test_tcp_and_udp_may_publish_the_same_port(world: World) -> None:
    options = ("--publish", "18056:53", "--publish", "18056:53/udp", "--publish", "18057:54/udp")
    with serving(world, *options):
        assert ask(world, "127.0.0.1", 18056, 3) == "3"


# Client that gets its answer only after many other clients have got theirs.
LATE = """
import socket, sys
def connected():
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(20)
    client.connect(("127.0.0.1", int(sys.argv[1])))
    return client
late, others = connected(), [connected() for _ in range(int(sys.argv[2]))]
late.send(b"hold")
for other in others:
    other.send(b"x")
    assert other.recv(100).endswith(b" x")
others[-1].send(b"release")
assert others[-1].recv(100).endswith(b" release")
for client in [late, *others]:
    client.settimeout(0)
    try:
        print("late" if client is late else "another", client.recv(100))
    except BlockingIOError:
        pass
"""


@pytest.mark.parametrize(("others", "said"), [(1, "late b'late'\n"), (300, "")])
def test_late_udp_answer_reaches_no_other_client(world: World, others: int, said: str) -> None:
    with serving(world, "--publish", "18058:53/udp"):
        done = world.run("/usr/bin/python3", "-c", LATE, "18058", str(others))
    assert (done.stdout, done.stderr) == (said, "")


# Client that sends datagrams from many sockets, as fast as possible, until end of file on stdin.
FLOOD = """
import select, socket, sys
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(100):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(bytes(1000), ("127.0.0.1", int(sys.argv[1])))
"""

# Client that repeats its request until it is answered, as UDP clients do.
PATIENT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(0.2)
    client.connect(("127.0.0.1", int(sys.argv[1])))
    for number in range(10):
        request = b"%d" % number
        for _ in range(200):
            client.send(request)
            try:
                if client.recv(100).endswith(b" " + request):
                    break
            except TimeoutError:
                pass
        else:
            sys.exit(f"no answer to {number}")
print("answered")
"""


def test_flood_of_udp_clients_does_not_stop_the_forwarder(world: World) -> None:
    with serving(world, "--publish", "18064:53/udp") as popen, contextlib.ExitStack() as undo:
        flood = undo.enter_context(
            subprocess.Popen(
                world.command("/usr/bin/python3", "-c", FLOOD, "18064"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        undo.callback(flood.kill)
        assert flood.stdout is not None
        assert flood.stdout.readline() == b"ready\n"
        done = world.run("/usr/bin/python3", "-c", PATIENT, "18064")
        assert (done.stdout, done.stderr) == ("answered\n", "")
        flood.kill()
        for pid in network_processes(world, popen):
            # Each process has at most 256 sockets, one per client, and fewer than 10 other
            # descriptors.
            assert len(os.listdir(f"/proc/{pid}/fd")) < 256 + 10
        # PATIENT repeats its request, since datagrams of the flood may still fill the buffers.
        done = world.run("/usr/bin/python3", "-c", PATIENT, "18064")
        assert (done.stdout, done.stderr) == ("answered\n", "")


@pytest.mark.userns_requires("strace")
def test_udp_datagram_without_memory_is_lost(world: World) -> None:
    with serving(world, "--publish", "18067:53/udp") as popen, contextlib.ExitStack() as undo:
        pids = network_processes(world, popen)
        fault = "inject=sendto:error=ENOBUFS:when=1"
        words = ["strace", "-e", "trace=sendto", "-e", fault, *(f"--attach={pid}" for pid in pids)]
        tracer = undo.enter_context(
            subprocess.Popen(world.command(*words), stderr=subprocess.PIPE, text=True)
        )
        undo.callback(tracer.kill)
        assert tracer.stderr is not None
        for _ in pids:
            assert "attached" in tracer.stderr.readline()
        done = world.run("/usr/bin/python3", "-c", PATIENT, "18067")
        assert (done.stdout, done.stderr) == ("answered\n", "")
        tracer.terminate()
        assert tracer.stderr.read().count("(INJECTED)") == len(pids)


# Server that, before it answers its client, sends forged datagrams from another socket to all UDP
# ports near the port from which the forwarder has sent the client's request.
FORGER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
print("ready", flush=True)
data, client = server.recvfrom(100)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
    for port in range(1, 65536):
        if port != 53 and abs(port - client[1]) <= int(sys.argv[1]):
            try:
                other.sendto(b"forged", ("127.0.0.1", port))
            except OSError:
                pass
server.sendto(b"0 " + data, client)
server.recv(100)
"""


@tries(5000, 65535)
def test_udp_client_gets_no_forged_answer(world: World, count: int) -> None:
    command = [USERNSCTL, "run", "--publish", "18065:53/udp", "--", "/usr/bin/python3", "-c"]
    command += [FORGER, str(count)]
    with subprocess.Popen(world.command(*command), stdout=subprocess.PIPE) as popen:
        try:
            assert popen.stdout is not None
            assert popen.stdout.readline() == b"ready\n"
            done = world.run("/usr/bin/python3", "-c", ONCE, "18065", timeout=120)
            assert (done.stdout, done.stderr) == ("b'0 x'\n", "")
        finally:
            popen.kill()


# Client that sends one datagram, and prints the first answer.
ONCE = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(60)
client.connect(("127.0.0.1", int(sys.argv[1])))
client.send(b"x")
print(client.recv(100))
"""


# Client that sends a datagram before the server listens and another datagram afterwards, and prints
# when the second datagram is answered.
EARLY = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(("127.0.0.1", int(sys.argv[1])))
client.send(b"early")
print("sent", flush=True)
sys.stdin.readline()
client.settimeout(20)
client.send(b"in time")
while not (answer := client.recv(100)).endswith(b" in time"):
    pass
print("answered")
"""


def test_udp_client_that_sends_before_the_server_starts_is_served(world: World) -> None:
    options = ("--publish", "18059:53/udp")
    program = "import sys; print('up', flush=True); sys.stdin.readline()\n" + SERVER
    command = [USERNSCTL, "run", *options, "--", "/usr/bin/python3", "-c", program, "53"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as undo:
        server = undo.enter_context(subprocess.Popen(world.command(*command), **pipes))
        undo.callback(server.kill)
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        words = world.command("/usr/bin/python3", "-c", EARLY, "18059")
        client = undo.enter_context(subprocess.Popen(words, **pipes))
        undo.callback(client.kill)
        assert client.stdout is not None
        assert client.stdout.readline() == "sent\n"
        assert server.stdin is not None
        server.stdin.write("\n")
        server.stdin.flush()
        assert server.stdout.readline() == "ready\n"
        assert client.communicate("\n", timeout=60)[0] == "answered\n"


def processes_below(pid: int) -> list[int]:
    pids = [pid]
    for one in pids:
        pids += children_of(one)
    return pids


def network_processes(world: World, popen: subprocess.Popen[str]) -> list[int]:
    """Return the pids of usernsctl-network's processes in the sandbox's network namespace."""
    machine = os.readlink(f"/proc/{world.machine.pid}/ns/net")
    return [
        pid
        for pid in processes_below(popen.pid)
        if Path(f"/proc/{pid}/comm").read_text() == "usernsctl-netwo\n"
        and os.readlink(f"/proc/{pid}/ns/net") != machine
    ]


@pytest.mark.also_root
def test_udp_forwarders_hold_only_their_sockets(world: World) -> None:
    options = ("--publish", "18060:53/udp", "--publish", "18061:53/udp")
    with serving(world, *options) as popen:
        found = network_processes(world, popen)
        assert len(found) == 2
        for pid in found:
            opened = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
            # Two of the three sockets are for the published ports, and one is connected to the
            # other usernsctl-network process.
            assert sum(name.startswith("socket:") for name in opened) == 3
            assert [name for name in opened if name.endswith("/null")] == ["/dev/null"] * 3
            assert len(opened) == 6
            status = Path(f"/proc/{pid}/status").read_text()
            for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
                assert f"{line}\n" in status
        # Check that the death of either usernsctl-network process ends the network and the sandbox.
        subprocess.run(world.command("kill", "-9", str(found[0])), check=True)
        assert popen.wait(timeout=60) == 137
        assert popen.stderr is not None
        assert "network-ended" in popen.stderr.read()


def test_udp_clients_can_not_take_the_port_inside(world: World) -> None:
    options = ("--publish", "18066:40053/udp", "--publish", "18066:40054")
    with serving(world, *options, port=40053) as popen:
        pid = str(network_processes(world, popen)[0])
        file = "/proc/sys/net/ipv4/ip_local_reserved_ports"
        done = world.run("nsenter", "--net", "--target", pid, "cat", file)
        assert (done.stdout, done.stderr) == ("40053-40054\n", "")
        assert ask(world, "127.0.0.1", 18066) == "1"


@pytest.mark.also_root
def test_taken_udp_port_is_reported_before_the_start(world: World) -> None:
    # Publish port 5353, on which the simulated host's own UDP server listens.
    done = world.run(USERNSCTL, "run", "--publish", "5353:53/udp", "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "UDP port 5353 of 127.0.0.1" in done.stderr
    assert "port-taken" in done.stderr
    with serving(world, "--publish", "18062:53/udp"):
        done = world.run(USERNSCTL, "run", "--publish", "18062:53/udp", "--", "echo", "started")
        assert "port-taken" in done.stderr


def test_published_udp_port_is_free_after_the_end(world: World) -> None:
    for _ in range(2):
        with serving(world, "--publish", "18063:53/udp"):
            assert ask(world, "127.0.0.1", 18063) == "1"
