"""Tests of ``--network private`` in a world of network namespaces (tests/networks.py)."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS
from networks import World
from processes import children_of

pytestmark = pytest.mark.also_root

USERNSCTL = str(SCRIPTS / "usernsctl")
# Asks web servers, each ADDRESS or [ADDRESS]:PORT, and prints the answer or the error of each.
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


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with networks.world(tmp_path_factory.mktemp("world")) as made:
        yield made


def ask(world: World, *words: str, options: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the answers of web servers to a sandbox."""
    command = [USERNSCTL, "run", "--network", "private", *options]
    done = world.run(*command, "--", "/usr/bin/python3", "-c", ASK, *words)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def test_private_network_reaches_the_internet(world: World) -> None:
    wanted = {
        f"{networks.WEB}/80": f"outside ::ffff:{networks.WEB}",
        f"{networks.WEB_6}/80": f"outside {networks.WEB_6}",
        "web.example/443": f"outside ::ffff:{networks.WEB}",
    }
    assert ask(world, *wanted) == wanted


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "::1",
        "localhost",
        "0.0.0.0",
        "::ffff:127.0.0.1",
        networks.MACHINE,
        networks.MACHINE_2,
        networks.BRIDGE,
        networks.MACHINE_6,
        f"::ffff:{networks.BRIDGE}",
        networks.ROUTER,
        networks.ROUTER_6,
        networks.METADATA,
        "metadata.example",
        "loopback.example",
    ],
)
def test_private_network_does_not_reach(world: World, address: str) -> None:
    # The services answer to the machine itself.
    names = {"metadata.example": networks.METADATA, "loopback.example": "127.0.0.1"}
    done = world.run("/usr/bin/python3", "-c", ASK, f"{names.get(address, address)}/80")
    assert "side " in done.stdout or "machine " in done.stdout, done.stdout
    assert ask(world, f"{address}/80")[f"{address}/80"] in {
        "ConnectionRefusedError",
        "OSError",
        "TimeoutError",
    }


# Connects by sockets that name the device of the private network, and prints what answers.
BY_DEVICE = """
import socket, struct, sys, time
machine, link_local, bridge, metadata = sys.argv[1:]
index = socket.if_nametoindex("eth0")
# The kernel uses the own link-local address once no other host has turned out to have it.
for _ in range(200):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.connect(("fe80::1", 9, 0, index))
        here = probe.getsockname()[:1] + (0, 0, index)
    if here[0].startswith("fe80:"):
        break
    time.sleep(0.05)
assert here[0].startswith("fe80:"), here
query = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\3web\\7example\\0\\0\\1\\0\\1"
def connect(source, address):
    with socket.socket(socket.AF_INET6) as connection:
        connection.settimeout(2)
        if source:
            connection.bind(source)
        connection.connect(address)
        connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return connection.makefile().read().split("\\n")[-2]
def send(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        connection.settimeout(2)
        by = struct.pack("@i8x", index)
        connection.sendmsg([query], [(socket.IPPROTO_IP, 8, by)], 0, (address, 53))
        return connection.recv(512)
for what, function, *words in (
    ("link-local", connect, None, (link_local, 80, 0, index)),
    ("machine", connect, here, (machine, 80)),
    ("metadata", connect, here, (metadata, 80)),
    ("datagram", send, bridge),
):
    try:
        print(what, "answered", function(*words))
    except OSError as error:
        print(what, "failed", error)
"""


@pytest.mark.parametrize("rules", [[], ["--allow", "0.0.0.0/0", "--allow", "::/0"]])
def test_socket_of_a_device_does_not_reach_this_machine(world: World, rules: list[str]) -> None:
    shown = world.run("ip", "-6", "-o", "addr", "show", "dev", "lan", "scope", "link").stdout
    link_local = shown.split()[3].split("/")[0]
    command = [USERNSCTL, "run", "--network", "private"]
    if rules:
        command = [USERNSCTL, "run", *rules]
    words = [networks.BRIDGE_6, link_local, networks.BRIDGE, networks.METADATA_6]
    done = world.run(*command, "--", "/usr/bin/python3", "-c", BY_DEVICE, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert [line for line in lines if "failed" not in line] == []


def test_allowed_ranges_open_no_denied_address(world: World) -> None:
    ranges = ["--allow", "0.0.0.0/0", "--allow", "::/0"]
    denied = [networks.MACHINE_2, networks.BRIDGE, networks.METADATA, networks.METADATA_6]
    words = [f"{address}/80" for address in [*denied, networks.ROUTER]]
    command = [USERNSCTL, "run", *ranges, "--", "/usr/bin/python3", "-c", ASK]
    done = world.run(*command, *words, "web.example/80")
    lines = done.stdout.splitlines()
    assert [line for line in lines if "side" in line or "machine" in line] == [
        f"web.example/80 outside ::ffff:{networks.WEB}"
    ], done.stdout + done.stderr


ALLOWED = (
    ("--allow", f"{networks.WEB}/32:80"),
    ("--allow", f"[{networks.WEB_6}]:8000-9000"),
)


@pytest.mark.parametrize(
    ("word", "is_allowed"),
    [
        (f"{networks.WEB}/80", True),
        (f"{networks.WEB}/443", False),
        (f"{networks.WEB_6}/8080", True),
        (f"{networks.WEB_6}/80", False),
        (f"{networks.OTHER_WEB}/80", False),
        (f"::ffff:{networks.OTHER_WEB}/80", False),
        (f"{networks.NEIGHBOUR}/80", False),
        (f"{networks.DNS}/80", False),
        (f"{networks.MACHINE_2}/80", False),
        (f"{networks.METADATA}/80", False),
        ("web.example/80", False),
    ],
)
def test_only_allowed_addresses_are_reached(world: World, word: str, is_allowed: bool) -> None:
    command = [USERNSCTL, "run", *(word for pair in ALLOWED for word in pair)]
    done = world.run(*command, "--", "/usr/bin/python3", "-c", ASK, word)
    assert (f"{word} outside " in done.stdout) == is_allowed, done.stdout + done.stderr


# Sends a datagram, opens raw and packet sockets, and tries to remove rules, routes and devices.
ESCAPE = """
import errno, socket, subprocess
def attempt(what, function):
    try:
        function()
        print(what, "succeeded")
    except OSError as error:
        print(what, errno.errorcode[error.errno])
attempt("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt("netfilter", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
abstract = socket.socket(socket.AF_UNIX)
attempt("abstract", lambda: abstract.connect("\\0NAME"))
for command in ("ip route flush table main", "ip link set eth0 down",
                "ip addr add 10.9.9.9/24 dev eth0", "ip route add 10.0.0.0/8 dev eth0",
                "nft flush ruleset"):
    done = subprocess.run(command.split(), capture_output=True)
    print(command, "succeeded" if done.returncode == 0 else "failed")
"""


def test_network_can_not_be_changed_from_inside(world: World) -> None:
    rules = [word for pair in ALLOWED for word in pair]
    script = ESCAPE.replace("NAME", networks.ABSTRACT) + ASK
    words = [f"{networks.OTHER_WEB}/80", f"{networks.MACHINE_2}/80"]
    command = [USERNSCTL, "run", *rules, "--", "/usr/bin/python3", "-c", script, *words]
    done = world.run(*command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    assert [line for line in lines if "succeeded" in line or "outside" in line] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--allow", "198.51.100.7/24"], "has host bits set"),
        (["--allow", "198.51.100.0/24:0"], "'0' is not a port from 1 to 65535"),
        (["--allow", "a.*.example"], "* must be the whole first label"),
        (["--allow", "fe80::1%eth0} accept"], "name of a device"),
        (["--allow", "web.example", "--network", "host"], "exclude each other"),
    ],
)
def test_malformed_allow_is_refused(world: World, options: list[str], said: str) -> None:
    done = world.run(USERNSCTL, "run", *options, "--", "echo", "started")
    assert done.returncode == 125 or done.returncode == 2
    assert said in done.stderr
    assert "started" not in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("options", [["--network", "private"], ["--allow", "198.51.100.0/24"]])
@pytest.mark.parametrize(
    ("script", "cause"),
    [("#!/bin/sh\necho no luck >&2; exit 3\n", "nft-failed"), ("", "nft-missing")],
)
def test_private_network_fails_without_nft(
    world: World, tmp_path: Path, options: list[str], script: str, cause: str
) -> None:
    other = tmp_path / "nft"
    other.write_text(script)
    other.chmod(0o755 if script else 0o644)
    hide = f'mount --bind {other} /usr/sbin/nft; exec "$@"'
    command = [USERNSCTL, "run", *options, "--", "echo", "started"]
    done = world.run("unshare", "--mount", "sh", "-ec", hide, "sh", *command)
    assert done.returncode == 125
    assert causes_in(done.stderr) == [cause]
    assert "started" not in done.stdout
    assert processes_left(world) == []


# Asks the proxy for a host, as curl would, and then the host itself.
PROXIED = """
import os, urllib.error, urllib.request
assert os.environ["HTTPS_PROXY"] == os.environ["http_proxy"] == "http://127.0.0.1:3128"
for name in ("web.example", "other.example", "private.example"):
    try:
        print(name, urllib.request.urlopen(f"http://{name}/", timeout=20).status)
    except urllib.error.HTTPError as error:
        print(name, error.code)
"""


def test_sandbox_with_allowed_names_reaches_only_the_proxy(world: World) -> None:
    command = [USERNSCTL, "run", "--allow", "private.example", "--"]
    words = [f"{networks.WEB}/80", f"{networks.MACHINE}/80", f"{networks.DNS}/80"]
    done = world.run(*command, "/usr/bin/python3", "-c", PROXIED + ASK, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # The proxy connects to no private address, whatever name leads there.
    assert lines[:-3] == ["web.example 403", "other.example 403", "private.example 403"]
    assert [line for line in lines if "outside" in line or "machine" in line] == []
    assert "private.example" in done.stderr
    assert processes_left(world) == []


# Starts sandboxes of a host, and prints the answers of a web server and the ends of the sandboxes.
HOST = """
import signal, sys, usernsctl
host = usernsctl.SandboxHost(network="private")
ask = ["/usr/bin/python3", "-c", sys.argv[1], *sys.argv[2:]]
with host.start(None) as box, host.start(None, detach=True) as other:
    for one in (box, other):
        done = one.run(ask, capture_output=True, text=True)
        print(done.stdout, done.stderr)
"""


def test_sandboxes_of_a_host_have_private_networks(world: World) -> None:
    words = [f"{networks.WEB}/80", f"{networks.BRIDGE}/80"]
    done = world.run(sys.executable, "-c", HOST, ASK, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{networks.WEB}/80 outside ::ffff:{networks.WEB}") == 2
    assert done.stdout.count(f"{networks.BRIDGE}/80 OSError") == 2
    assert processes_left(world) == []


def test_host_reports_the_failure_of_a_private_network(world: World, tmp_path: Path) -> None:
    script = tmp_path / "pasta"
    script.write_text("#!/bin/sh\necho no luck >&2; exit 1\n")
    script.chmod(0o755)
    for detach in ("False", "True"):
        text = (
            "import usernsctl\n"
            "host = usernsctl.SandboxHost(network='private')\n"
            f"try: host.start(None, detach={detach})\n"
            "except usernsctl.UsernsError as error: print(error.step, error.cause)\n"
        )
        hide = f'mount --bind {script} {PASTA}; exec "$@"'
        done = world.run("unshare", "-m", "sh", "-ec", hide, "sh", sys.executable, "-c", text)
        assert done.stdout == "network pasta-failed\n", done.stderr


def test_frozen_launch_has_a_private_network(world: World, tmp_path: Path) -> None:
    launch = str(tmp_path / "launch")
    done = world.run(USERNSCTL, "freeze", "--network", "private", "-o", launch)
    assert done.returncode == 0, done.stderr
    words = [f"{networks.WEB}/80", f"{networks.BRIDGE}/80"]
    command = [str(SCRIPTS / "usernsctl-exec"), "--launch", launch]
    done = world.run(*command, "/usr/bin/python3", "-c", ASK, *words)
    assert done.stdout == f"{words[0]} outside ::ffff:{networks.WEB}\n{words[1]} OSError\n"


# ---- failures ------------------------------------------------------------------------------------


def run_with(world: World, files: dict[str, str], directory: Path) -> tuple[int, str]:
    """Run a sandbox with other files at some paths of the machine: each a script, or a device."""
    mounts = []
    for number, (path, text) in enumerate(files.items()):
        file = directory / str(number)
        file.write_text(text)
        file.chmod(0o755)
        mounts.append(f"mount --bind {file} {path}")
    script = "; ".join([*mounts, 'exec "$@"'])
    command = [USERNSCTL, "run", "--network", "private", "--", "echo", "started"]
    done = world.run("unshare", "--mount", "sh", "-ec", script, "sh", *command)
    assert "started" not in done.stdout
    assert "Traceback" not in done.stderr
    assert processes_left(world) == []
    return done.returncode, done.stderr


def causes_in(errors: str) -> list[str]:
    """Return the ids of causes in the messages of usernsctl."""
    return re.findall(r"\[([a-z-]+)\]$", errors, re.MULTILINE)


def processes_of(world: World) -> dict[str, int]:
    """Return the processes in the machine's network namespace, by their names."""
    wanted = os.readlink(f"/proc/{world.machine.pid}/ns/net")
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(directory / "ns" / "net") == wanted:
                found[(directory / "comm").read_text().strip()] = int(directory.name)
    return found


def processes_left(world: World) -> list[str]:
    """Return the programs of private networks that still run after some time.

    pasta hides its namespaces, but can't outlive usernsctl-network, process 1 of its PID namespace.
    """
    for _ in range(100):
        found = [name for name in processes_of(world) if name.startswith("usernsctl-")]
        if not found:
            return []
        time.sleep(0.05)
    return found


PASTA = next(path for path in ("/usr/local/bin/pasta", "/usr/bin/pasta") if os.path.exists(path))


@pytest.mark.parametrize(
    ("script", "cause", "said"),
    [
        ("#!/bin/sh\necho no luck >&2; exit 3\n", "pasta-failed", "status 3: no luck"),
        ("#!/bin/sh\nkill -9 $$\n", "pasta-failed", "killed by signal 9"),
        ("#!/bin/sh\nexec sleep 1000\n", "pasta-hung", "not ready after 10 s"),
        (
            "#!/bin/sh\necho \"pasta: unrecognized option '--no-map-gw'\" >&2; exit 1\n",
            "pasta-too-old",
            "--no-map-gw",
        ),
        (
            "#!/bin/sh\necho 'Failed to open() /dev/net/tun: Permission denied' >&2; exit 1\n",
            "tun-missing",
            "/dev/net/tun",
        ),
    ],
)
def test_private_network_fails_with(
    world: World, tmp_path: Path, script: str, cause: str, said: str
) -> None:
    status, errors = run_with(world, {PASTA: script}, tmp_path)
    assert status == 125
    assert causes_in(errors) == [cause]
    assert said in errors


def test_private_network_without_pasta(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "pasta"
    copy.write_text("")
    copy.chmod(0o644)
    hide = f'mount --bind {copy} {PASTA}; exec "$@"'
    command = [USERNSCTL, "run", "--network", "private", "--", "true"]
    done = world.run("unshare", "--mount", "sh", "-ec", hide, "sh", *command)
    assert done.returncode == 125
    assert causes_in(done.stderr) == ["pasta-missing"]
    assert "apt-get install passt" in done.stderr


def test_private_network_of_a_device_that_is_denied(world: World) -> None:
    hide = 'mount --bind /proc/version /dev/net/tun; exec "$@"'
    command = [USERNSCTL, "run", "--network", "private", "--", "true"]
    done = world.run("unshare", "--mount", "sh", "-ec", hide, "sh", *command)
    assert done.returncode == 125
    assert causes_in(done.stderr) == ["tun-missing"], done.stderr


# ---- the end -------------------------------------------------------------------------------------


def start_waiting(world: World) -> subprocess.Popen[str]:
    command = [USERNSCTL, "run", "--network", "private", "--", "sh", "-c", "echo up; sleep 1000"]
    popen = subprocess.Popen(
        world.command(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert popen.stdout is not None
    assert popen.stdout.readline() == "up\n"
    return popen


def test_private_network_ends_with_its_sandbox(world: World) -> None:
    popen = start_waiting(world)
    popen.kill()
    popen.communicate()
    assert processes_left(world) == []


def test_sandbox_ends_with_its_private_network(world: World) -> None:
    popen = start_waiting(world)
    keeper = processes_of(world)["usernsctl-netwo"]
    (pasta,) = children_of(keeper)
    os.kill(pasta, signal.SIGKILL)
    _, errors = popen.communicate(timeout=60)
    assert popen.returncode == 137
    assert causes_in(errors) == ["network-ended"]
    assert processes_left(world) == []
