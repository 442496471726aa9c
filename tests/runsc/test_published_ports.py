"""Tests of ``--publish`` in a virtual network (tests/networks.py)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS
from networks import World
from processes import children_of

USERNSCTL = str(SCRIPTS / "usernsctl")

# Server that reads each client's input until end of file, and answers with its size and content.
SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 80))
print("ready", flush=True)
def answer(connection):
    with connection:
        text = connection.makefile("rb").read()
        connection.sendall(b"%d " % len(text) + text)
while True:
    threading.Thread(target=answer, args=server.accept()[:1]).start()
"""

# Client that sends bytes over several connections at once, and prints the sizes of the answers.
CLIENT = """
import socket, sys, threading
address, port, count, size = sys.argv[1], *map(int, sys.argv[2:])
found = []
def ask():
    with socket.create_connection((address, port), timeout=30) as connection:
        threading.Thread(target=send, args=[connection]).start()
        answer = connection.makefile("rb").read()
        found.append(answer == b"%d " % size + bytes(size))
def send(connection):
    connection.sendall(bytes(size))
    connection.shutdown(socket.SHUT_WR)
threads = [threading.Thread(target=ask) for _ in range(count)]
for each in threads: each.start()
for each in threads: each.join()
print(found.count(True))
"""


def serving(
    world: World, *options: str
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """Run SERVER in a sandbox with `options`; yield the process; stop it after the block."""
    server = ["/usr/bin/python3", "-c", SERVER]
    return world.serving(USERNSCTL, "run", *options, "--", *server)


def ask(world: World, address: str, port: int, count: int = 1, size: int = 1000) -> str:
    return world.ask(CLIENT, address, port, count, size)


@pytest.mark.also_root
@pytest.mark.parametrize("network", ["none", "private"])
def test_published_port_reaches_the_sandbox(world: World, network: str) -> None:
    with serving(world, "--network", network, "--publish", "18080:80"):
        assert ask(world, "127.0.0.1", 18080, 20, 300_000) == "20"
        # The port is published on one address only, so connections to other addresses are refused.
        assert "ConnectionRefusedError" in ask(world, networks.MACHINE, 18080)


@pytest.mark.also_root
def test_port_is_published_on_an_address(world: World) -> None:
    options = ("--publish", f"{networks.MACHINE}:18081:80", "--publish", "[::1]:18081:80")
    with serving(world, *options):
        assert ask(world, networks.MACHINE, 18081) == "1"
        assert ask(world, "::1", 18081) == "1"
        assert "ConnectionRefusedError" in ask(world, "127.0.0.1", 18081)


def test_port_without_a_server_inside_closes_the_connection(world: World) -> None:
    with serving(world, "--publish", "18082:81"):
        assert "Error" in ask(world, "127.0.0.1", 18082)


CONNECTED = """
import socket
client = socket.create_connection(("127.0.0.1", 18088))
print("ready", flush=True)
client.recv(1)
"""


def test_idle_clients_are_probed(world: World) -> None:
    """Check that the kernel probes idle clients, and so notices those that have vanished."""
    client = ["/usr/bin/python3", "-c", CONNECTED]
    with serving(world, "--publish", "18088:80"), world.serving(*client):
        shown = ""
        deadline = time.monotonic() + 30
        # Poll: the connection has no keepalive timer until the forwarder has accepted it.
        while "keepalive" not in shown and time.monotonic() < deadline:
            shown = world.run("ss", "-Htno", "state", "established", "sport = 18088").stdout
            time.sleep(0.05)
    assert re.search(r"timer:\(keepalive,(1min|\d+sec),0\)", shown), shown


@pytest.mark.also_root
def test_forwarder_holds_only_its_listening_sockets(world: World) -> None:
    options = ("--publish", "18085:80", "--publish", "18086:80")
    with serving(world, *options) as popen:
        machine = os.readlink(f"/proc/{world.machine.pid}/ns/net")
        pids = [popen.pid]
        for pid in pids:
            pids += children_of(pid)
        (forwarder,) = (
            pid
            for pid in pids
            if Path(f"/proc/{pid}/comm").read_text() == "usernsctl-netwo\n"
            and os.readlink(f"/proc/{pid}/ns/net") != machine
        )
        opened = [os.readlink(file) for file in Path(f"/proc/{forwarder}/fd").iterdir()]
        assert sum(name.startswith("socket:") for name in opened) == 2
        assert [name for name in opened if name.endswith("/null")] == ["/dev/null"] * 3
        assert len(opened) == 5
        status = Path(f"/proc/{forwarder}/status").read_text()
        for line in ("CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert f"{line}\n" in status
        assert ask(world, "127.0.0.1", 18085) == "1"


def test_taken_port_is_reported_before_the_start(world: World) -> None:
    # Publish port 8080, on which the simulated host's own web server listens.
    done = world.run(USERNSCTL, "run", "--publish", "8080:80", "--", "echo", "started")
    assert done.returncode == 125
    assert done.stdout == ""
    assert "port 8080 of 127.0.0.1" in done.stderr
    assert "port-taken" in done.stderr


@pytest.mark.parametrize(
    ("publish", "port", "cause"),
    [
        ("80:80", "port 80 of 127.0.0.1", "port-privileged"),
        ("80:80/udp", "UDP port 80 of 127.0.0.1", "port-privileged"),
        ("192.0.2.199:8090:80", "port 8090 of 192.0.2.199", "port-address-missing"),
    ],
)
@pytest.mark.also_root
def test_unusable_port_is_reported_with_its_cause(
    world: World, publish: str, port: str, cause: str
) -> None:
    done = world.run(USERNSCTL, "run", "--publish", publish, "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith(f"usernsctl: network: {port}: ")
    assert f"[{cause}]" in done.stderr
    assert "remedy:" in done.stderr


@pytest.mark.also_root
def test_taken_port_leaves_only_the_result_file(world: World, tmp_path: Path) -> None:
    # The port is taken, so usernsctl-watch fails before it starts the pump, the process that copies
    # output for --max-output.
    options = ("--max-output", "1M", "--publish", "8080:80", "--result", str(tmp_path / "result"))
    done = world.run(USERNSCTL, "run", *options, "--", "echo", "started")
    assert done.returncode == 125
    assert "port-taken" in done.stderr
    assert os.listdir(tmp_path) == ["result"]
    assert json.loads((tmp_path / "result").read_text())["reason"] == "start-failed"


# Script that handles SIGINT, and exits by itself if it receives no signal.
TRAP = 'trap "echo got; exit 3" INT; echo ready; for i in $(seq 300); do sleep 0.1; done'


@pytest.mark.parametrize("network", ["none", "private"])
def test_sigint_to_the_group_reaches_only_the_command(world: World, network: str) -> None:
    options = ("--network", network, "--publish", "18085:80")
    command = world.command(USERNSCTL, "run", *options, "--", "sh", "-c", TRAP)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as popen:
        assert popen.stdout is not None
        assert popen.stdout.readline() == "ready\n"
        os.killpg(popen.pid, signal.SIGINT)
        out, err = popen.communicate(timeout=60)
    assert (popen.returncode, out, err) == (3, "got\n", "")


def test_published_port_is_free_after_the_end(world: World) -> None:
    for _ in range(2):
        with serving(world, "--publish", "18083:80"):
            assert ask(world, "127.0.0.1", 18083) == "1"


@pytest.mark.thorough
def test_next_run_may_publish_the_same_port_immediately(world: World) -> None:
    run = f"{USERNSCTL} run --network private --publish 18086:80 -- true"
    done = world.run("sh", "-ec", "\n".join([run] * 6))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("80", "is not [ADDR:]HOST:INSIDE"),
        ("0:80", "'0' is not a port"),
        ("80:65536", "'65536' is not a port"),
        ("8080:80/sctp", "'80/sctp' is not a port"),
        ("8080/udp", "is not [ADDR:]HOST:INSIDE"),
        ("::1:8080:80", "needs brackets"),
        ("localhost:8080:80", "'localhost' is not an address"),
        ("8080-8090:80", "'8080-8090' is not a port"),
    ],
)
def test_malformed_publish_is_refused(world: World, text: str, said: str) -> None:
    done = world.run(USERNSCTL, "run", "--publish", text, "--", "echo", "started")
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_publish_with_network_host_is_refused(world: World, tmp_path: Path) -> None:
    options = ["--network", "host", "--publish", "18084:80"]
    done = world.run(USERNSCTL, "run", *options, "--", "true", cwd=tmp_path)
    assert "exclude each other" in done.stderr
