"""Tests of published ports in the Python API: the argument `publish` and the attribute `ports`."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import networks
import pytest
from processes import children_of, stop, wait_until

import usernsctl as un
from usernsctl._system.descriptors import open_owned, wait_readable

# HTTP server for the sandbox. The body of each response is the path of the request.
SERVER = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.path.encode())
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"""
COMMAND = ["/usr/bin/python3", "-c", SERVER]


def get(address: str, port: int, path: str = "/a") -> str:
    """Return the body of the HTTP server's response; retry until the server listens."""
    at = f"[{address}]" if ":" in address else address
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://{at}:{port}{path}", timeout=30) as answer:
                text: str = answer.read().decode()
                return text
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def is_closed(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def holders_of(port: int) -> list[str]:
    """Return the names of the processes that have a port's listening socket open."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    (inode,) = (row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A")
    found = []
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if any(os.readlink(file) == f"socket:[{inode}]" for file in directory.iterdir()):
                found.append((directory.parent / "comm").read_text().strip())
    return found


@pytest.mark.also_root
@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_free_port_reaches_a_server_inside(host: un.SandboxHost, *, detach: bool) -> None:
    with host.start(COMMAND, publish=[8000, "[::1]:0:8001"], detach=detach) as box:
        assert list(box.ports) == [8000, 8001]
        address, port = box.ports[8000]
        assert address == "127.0.0.1"
        assert box.ports[8001][0] == "::1"
        assert get(address, port, "/some/path") == "/some/path"
        # Neither runsc nor this process has the listening socket open.
        assert holders_of(port) == ["usernsctl-netwo"]
        if detach:
            attached = un.Sandbox.attach(box.id)
            assert attached.ports == box.ports
            attached.release()
    assert is_closed(address, port)


# UDP server for the sandbox, which echoes each datagram.
ECHO = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.1", 8000))
    while True:
        server.sendto(*server.recvfrom(1000))
"""


def ask(address: str, port: int) -> bytes:
    """Send datagrams until the UDP server in the sandbox replies; return the reply."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.settimeout(0.2)
        for _ in range(300):
            client.send(b"a")
            with contextlib.suppress(TimeoutError):
                return client.recv(1000)
    raise TimeoutError


@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_free_udp_port_reaches_a_server_inside(host: un.SandboxHost, *, detach: bool) -> None:
    publish = ["0:8000/udp", 8000]
    with host.start(["/usr/bin/python3", "-c", ECHO], publish=publish, detach=detach) as box:
        assert (list(box.ports), list(box.udp_ports)) == ([8000], [8000])
        address, port = box.udp_ports[8000]
        assert address == "127.0.0.1"
        assert ask(address, port) == b"a"
        with pytest.raises(un.RunscError, match=rf"UDP port {port} of 127.0.0.1: Address already"):
            host.start(["/bin/true"], publish=[f"{port}:80/udp"])
        if detach:
            attached = un.Sandbox.attach(box.id)
            assert attached.udp_ports == box.udp_ports
            attached.release()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((address, port))


def test_udp_clients_are_served_with_few_descriptors(host: un.SandboxHost) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # poll(2) fails with EINVAL if it gets more entries than the soft limit allows.
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with host.start(["/usr/bin/python3", "-c", ECHO], publish=["0:8000/udp"]) as box:
            assert ask(*box.udp_ports[8000]) == b"a"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Server for the sandbox, which echoes its client's first byte. Once a program opens the FIFO
# /tmp/go for writing, the server sends "rejected", closes the connection without reading the
# client's other data, and prints a line.
REJECTING = """
import os, signal, socket
os.mkfifo("/tmp/go")
with socket.create_server(("127.0.0.1", 8000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    # Send the answer at once, because close(2) drops unsent data if the client's data are unread.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(connection.recv(1))
    open("/tmp/go").close()
    connection.sendall(b"rejected")
    connection.close()
    print("closed", flush=True)
    signal.pause()
"""


def test_answer_reaches_a_client_whose_data_the_server_has_not_read(host: un.SandboxHost) -> None:
    command = ["/usr/bin/python3", "-c", REJECTING]
    with host.start(command, publish=[8000], stdout=un.PIPE) as box:
        assert box.stdout is not None
        assert box.stdout.readline() == b"ready\n"
        with socket.create_connection(box.ports[8000], timeout=30) as client:
            client.sendall(b"a" * 1000)
            assert client.recv(1) == b"a"
            (network,) = (
                pid for pid in children_of(box.init.pid) if b"usernsctl-network" in argv_of(pid)
            )
            (forwarder,) = children_of(network)
            # Stop the forwarder, so that it finds the client's data and the server's end at once.
            stop(forwarder, 30)
            client.sendall(b"b" * 1000)
            box.run(["sh", "-c", ": > /tmp/go"], check=True)
            assert box.stdout.readline() == b"closed\n"
            os.kill(forwarder, signal.SIGCONT)
            assert client.recv(100) == b"rejected"


def argv_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_removal_of_an_ended_sandbox_frees_its_ports(host: un.SandboxHost) -> None:
    with host.start(["sleep", "1000"], publish=["0:8000/udp"], detach=True) as box:
        address = box.udp_ports[8000]
        (record,) = [one for one in un.Sandbox.list_detached() if one.id == box.id]
        with open_owned(os.pidfd_open, record.pid) as pidfd:
            signal.pidfd_send_signal(pidfd.fileno(), signal.SIGKILL)
            assert wait_readable(pidfd.fileno(), timeout=60)
        assert record not in un.Sandbox.list_detached()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind(address)


def test_sandbox_with_published_ports_can_not_connect_out(host: un.SandboxHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, host.start(None, publish=[80]) as box:
        port = server.getsockname()[1]
        code = (
            "import os, socket\n"
            "print(*sorted(os.listdir('/proc/self/fd')))\n"
            f"for address in ('127.0.0.1', 80), ('127.0.0.1', {port}), ('192.0.2.1', 80):\n"
            "    try: socket.create_connection(address, timeout=5); print('connected')\n"
            "    except OSError as error: print(error.strerror)\n"
        )
        done = box.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True)
    fds, *answers = done.stdout.splitlines()
    assert fds == "0 1 2 3"
    assert answers == ["Connection refused", "Connection refused", "Network is unreachable"]


def test_sandbox_without_published_ports_has_none(host: un.SandboxHost) -> None:
    with host.start(None) as box:
        assert box.ports == {}


def test_taken_port_raises_before_the_start(host: un.SandboxHost) -> None:
    before = set(os.listdir(host.directory))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(un.RunscError, match=rf"port {port} of 127.0.0.1: Address already") as e:
            host.start(["/bin/true"], publish=[f"{port}:80"])
    assert e.value.cause == "port-taken"
    assert set(os.listdir(host.directory)) == before


def test_address_of_another_machine_raises_before_the_start(host: un.SandboxHost) -> None:
    with pytest.raises(un.RunscError, match=r"port 8090 of 192\.0\.2\.199: Cannot") as caught:
        host.start(["/bin/true"], publish=["192.0.2.199:8090:80"])
    assert caught.value.cause == "port-address-missing"


def test_failed_start_frees_the_port(host: un.SandboxHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(FileNotFoundError):
        host.start(["/no/such/program"], publish=[f"{port}:80"])
    assert is_closed("127.0.0.1", port)


@pytest.mark.parametrize(
    ("publish", "error"),
    [
        ("8080:80", TypeError),
        ([b"8080:80"], TypeError),
        ([True], TypeError),
        (80, TypeError),
        ([0], ValueError),
        ([65536], ValueError),
        ([-1], ValueError),
        (["80"], ValueError),
        (["65536:80"], ValueError),
        (["localhost:80:80"], ValueError),
        ([1] * 65, ValueError),
    ],
)
def test_invalid_publish_raises(host: un.SandboxHost, publish: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="publish"):
        host.start(["/bin/true"], publish=publish)


def test_publish_with_network_host_raises() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        un.Sandbox(["/bin/true"], network="host", publish=[80])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("max_uses", [1, 2])
def test_each_sandbox_of_a_pool_has_its_own_port(host: un.SandboxHost, max_uses: int) -> None:
    with host.pool(2, limit=2, publish=[8000], max_uses=max_uses) as pool:
        with pool.acquire(timeout=60) as one, pool.acquire(timeout=60) as other:
            for box in (one, other):
                box.run(["sh", "-c", '"$@" >/dev/null 2>&1 &', "sh", *COMMAND], check=True)
                assert get(*box.ports[8000], f"/{box.id}") == f"/{box.id}"
            ids, addresses = [one.id, other.id], [one.ports[8000], other.ports[8000]]
        assert addresses[0] != addresses[1]
        with pool.acquire(timeout=60) as box:
            assert (box.id in ids) == (max_uses == 2)
            if max_uses == 2:
                assert box.ports[8000] in addresses
            # The first lease's server was killed when that lease ended, so it no longer answers.
            with pytest.raises(OSError, match=r"closed connection|reset|refused"):
                urllib.request.urlopen("http://{}:{}/".format(*box.ports[8000]), timeout=30)


def test_invalid_ports_of_a_pool_raise(host: un.SandboxHost) -> None:
    with pytest.raises(ValueError, match="sandboxes can't share port 8080; 0 stands for"):
        host.pool(1, publish=["8080:80"])
    with pytest.raises(ValueError, match="publish: '80' is not"):
        host.pool(1, publish=["80"])
    with (
        un.SandboxHost(network="host") as with_network,
        pytest.raises(ValueError, match="exclude each other"),
    ):
        with_network.pool(1, publish=[80])
    with (
        host.template() as template,
        pytest.raises(ValueError, match="sandboxes of a template have no published ports"),
    ):
        host.pool(1, template=template, publish=[80])


HELD = f"""
import sys, time, usernsctl
box = usernsctl.Sandbox({COMMAND!r}, network=sys.argv[1], publish=[8000])
print(*box.ports[8000], flush=True)
sys.stdin.read()
"""


@pytest.mark.also_root
def test_killed_creator_frees_the_port() -> None:
    command = [sys.executable, "-c", HELD, "none"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        address, port = process.stdout.readline().decode().split()
        assert get(address, int(port)) == "/a"
        (init,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        pidfd = os.pidfd_open(int(init))
        process.kill()
    assert select.select([pidfd], [], [], 30)[0]
    os.close(pidfd)
    # usernsctl-network, which has the listening socket open, may exit after usernsctl-init.
    wait_until(lambda: is_closed(address, int(port)))


@pytest.mark.also_root
def test_published_port_works_with_a_private_network(tmp_path: Path) -> None:
    script = f"{HELD.replace('sys.stdin.read()', '')}\nwhile True:\n" + (
        "    try: answer = urllib.request.urlopen('http://%s:%d/b' % box.ports[8000]).read()\n"
        "    except OSError: time.sleep(0.05)\n"
        "    else: break\n"
        "print(answer)\n"
    )
    with networks.world(tmp_path) as world:
        done = world.run(sys.executable, "-c", f"import urllib.request\n{script}", "private")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("b'/b'\n")
