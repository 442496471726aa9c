"""Tests of ``--network private`` in a virtual network (tests/networks.py)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS
from networks import ASK, World
from processes import causes_in, children_of

USERNSCTL = str(SCRIPTS / "usernsctl")


def ask(world: World, *words: str, options: tuple[str, ...] = ()) -> dict[str, str]:
    """Request web pages from a sandbox with a private network; return the servers' responses."""
    command = [USERNSCTL, "run", "--network", "private", *options]
    done = world.run(*command, "--", "/usr/bin/python3", "-c", ASK, *words)
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


@pytest.mark.also_root
def test_private_network_reaches_the_internet(world: World) -> None:
    wanted = {
        f"{networks.WEB}/80": f"outside ::ffff:{networks.WEB}",
        f"{networks.WEB_6}/80": f"outside {networks.WEB_6}",
        "web.example/443": f"outside ::ffff:{networks.WEB}",
        f"{networks.WEB_64}/80": f"outside {networks.WEB_64}",
    }
    assert ask(world, *wanted) == wanted


TRANSLATED = (networks.METADATA_64, networks.BRIDGE_64, networks.LOCAL_64)


@pytest.mark.parametrize(
    "addresses",
    [TRANSLATED, (*networks.OTHER_METADATA, *networks.OTHER_METADATA_6)],
    ids=["nat64", "metadata"],
)
def test_denied_addresses_are_unreachable(world: World, addresses: tuple[str, ...]) -> None:
    words = [f"{address}/80" for address in addresses]
    done = world.run("/usr/bin/python3", "-c", ASK, *words)
    assert done.stdout.count(" outside ") == len(words)
    denied = {"ConnectionRefusedError", "OSError", "TimeoutError"}
    assert set(ask(world, *words).values()) <= denied


@pytest.mark.also_root
def test_denied_addresses_have_unreachable_routes_first(world: World) -> None:
    # Add the route that the kernel of an IPv6 router adds. With this route, the simulated host
    # answers at the subnet's anycast address.
    anycast = ["ip", "-6", "route", "replace", "anycast", networks.BRIDGE_ANYCAST_6, "dev"]
    assert world.run(*anycast, "bridge", "table", "local").returncode == 0
    command = world.command(USERNSCTL, "run", "--network", "private", "--", "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as popen:
        assert popen.stdin is not None
        assert popen.stdout is not None
        popen.stdin.write(b"ready\n")
        popen.stdin.flush()
        assert popen.stdout.readline() == b"ready\n"
        machine = os.readlink(f"/proc/{world.machine.pid}/ns/net")
        pids = [popen.pid]
        for pid in pids:
            pids += children_of(pid)
        inside = next(pid for pid in pids if os.readlink(f"/proc/{pid}/ns/net") != machine)
        done = world.run("nsenter", "-t", str(inside), "-n", "ip", "-6", "route")
        done_4 = world.run("nsenter", "-t", str(inside), "-n", "ip", "route")
        popen.kill()
    assert f"unreachable {networks.BROADCAST} " in done_4.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("unreachable")]
    for address in (networks.BRIDGE_6, networks.BRIDGE_ANYCAST_6):
        assert f"unreachable {address} dev lo" in "\n".join(lines)
    assert [line for line in lines if " metric 1 " not in f"{line} "] == []


ALLOWED = (
    ("--allow", f"{networks.WEB}/32:80"),
    ("--allow", f"[{networks.WEB_6}]:8000-9000"),
)


@pytest.mark.also_root
def test_allow_reaches_only_the_given_addresses(world: World) -> None:
    allowed = [f"{networks.WEB}/80", f"{networks.WEB_6}/8080"]
    others = [f"{networks.WEB}/443", f"{networks.WEB_6}/80", f"{networks.OTHER_WEB}/80"]
    command = [USERNSCTL, "run", *(word for pair in ALLOWED for word in pair)]
    done = world.run(*command, "--", "/usr/bin/python3", "-c", ASK, *allowed, *others)
    lines = done.stdout.splitlines()
    assert [line for line in lines if " outside " in line] == [
        f"{allowed[0]} outside ::ffff:{networks.WEB}",
        f"{allowed[1]} outside {networks.WEB_6}",
    ], done.stdout + done.stderr
    assert len(lines) == 5


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


@pytest.mark.also_root
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
    assert causes_in(done.stderr) == [cause], done.stderr
    assert "started" not in done.stdout
    assert processes_left(world) == []


@pytest.mark.userns_requires("strace")
def test_error_of_nft_is_reported_if_its_process_exits_late(world: World, tmp_path: Path) -> None:
    """Check that nft's error is reported although the process that sends it has already exited.

    The process leaves a message unread, so usernsctl-network gets ECONNRESET from the socket.
    """
    other = tmp_path / "nft"
    other.write_text("#!/bin/sh\nexit 3\n")
    other.chmod(0o755)
    hide = f'mount --bind {other} /usr/sbin/nft; exec "$@"'
    # usernsctl-network's first two messages request routes. The third message goes to the process
    # in the namespace. The delays let that process report its error and exit before
    # usernsctl-network reads the report.
    faults = ["exit_group:delay_enter=1000000", "sendto:delay_exit=500000:when=3"]
    late = ["strace", "-f", "-o", os.devnull, "-e", "trace=exit_group,sendto"]
    for fault in faults:
        late += ["-e", f"inject={fault}"]
    command = [*late, USERNSCTL, "run", "--network", "private", "--", "echo", "started"]
    done = world.run("unshare", "--mount", "sh", "-ec", hide, "sh", *command)
    assert done.returncode == 125
    assert causes_in(done.stderr) == ["nft-failed"], done.stderr


# Program that requests pages through the proxy, as curl would. ASK connects without the proxy.
PROXIED = """
import os, urllib.error, urllib.request
assert os.environ["HTTPS_PROXY"] == os.environ["http_proxy"] == "http://127.0.0.1:3128"
for name in ("web.example", "other.example", "private.example"):
    try:
        print(name, urllib.request.urlopen(f"http://{name}/", timeout=20).status)
    except urllib.error.HTTPError as error:
        print(name, error.code)
"""


@pytest.mark.also_root
def test_sandbox_with_allowed_names_reaches_only_the_proxy(world: World) -> None:
    command = [USERNSCTL, "run", "--allow", "private.example", "--"]
    words = [f"{networks.WEB}/80", f"{networks.MACHINE}/80", f"{networks.DNS}/80"]
    done = world.run(*command, "/usr/bin/python3", "-c", PROXIED + ASK, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # The proxy must not connect to a private address, whatever name resolves to it.
    assert lines[:-3] == ["web.example 403", "other.example 403", "private.example 403"]
    assert [line for line in lines if "outside" in line or "machine" in line] == []
    assert "private.example" in done.stderr
    assert processes_left(world) == []


# Program that starts an attached and a detached sandbox, and prints the responses that both get
# from the web servers.
HOST = """
import signal, sys, usernsctl
host = usernsctl.SandboxHost(network="private")
ask = ["/usr/bin/python3", "-c", sys.argv[1], *sys.argv[2:]]
with host.start(None) as box, host.start(None, detach=True) as other:
    for one in (box, other):
        done = one.run(ask, capture_output=True, text=True)
        print(done.stdout, done.stderr)
"""


@pytest.mark.also_root
def test_sandboxes_of_a_host_have_private_networks(world: World) -> None:
    words = [f"{networks.WEB}/80", f"{networks.BRIDGE}/80"]
    done = world.run(sys.executable, "-c", HOST, ASK, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{networks.WEB}/80 outside ::ffff:{networks.WEB}") == 2
    assert done.stdout.count(f"{networks.BRIDGE}/80 OSError") == 2
    assert processes_left(world) == []


POOL = """
import sys, usernsctl
host = usernsctl.SandboxHost(network="private")
ask = ["/usr/bin/python3", "-c", sys.argv[1], *sys.argv[2:]]
with host.pool(1, max_uses=2) as pool:
    for _ in range(3):
        with pool.acquire() as box:
            print(box.run(ask, capture_output=True, text=True).stdout)
try:
    with host.template(None) as template, template.start() as box:
        print(box.run(ask, capture_output=True, text=True).stdout)
except usernsctl.UsernsError as error:
    print(error.cause, error.remedy)
host.close()
"""


@pytest.mark.thorough
def test_pools_and_templates_have_private_networks(world: World) -> None:
    words = [f"{networks.WEB}/80", f"{networks.BRIDGE}/80"]
    done = world.run(sys.executable, "-c", POOL, ASK, *words, timeout=120)
    assert done.returncode == 0, done.stderr
    count = done.stdout.count(f"{networks.WEB}/80 outside ::ffff:{networks.WEB}")
    # Before release 20260817, runsc can't save a sandbox with a private network, so the program
    # starts no sandbox from a template.
    is_refused = "template-unsavable use network='none'" in done.stdout
    assert count == (3 if is_refused else 4), done.stdout
    assert done.stdout.count(f"{networks.BRIDGE}/80 OSError") == count
    assert processes_left(world) == []


def test_host_raises_if_pasta_fails(world: World, tmp_path: Path) -> None:
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


@pytest.mark.also_root
def test_frozen_launch_has_a_private_network(world: World, tmp_path: Path) -> None:
    launch = str(tmp_path / "launch")
    done = world.run(USERNSCTL, "freeze", "--network", "private", "-o", launch)
    assert done.returncode == 0, done.stderr
    words = [f"{networks.WEB}/80", f"{networks.BRIDGE}/80"]
    command = [str(SCRIPTS / "usernsctl-exec"), "--launch", launch]
    done = world.run(*command, "/usr/bin/python3", "-c", ASK, *words)
    assert done.stdout == f"{words[0]} outside ::ffff:{networks.WEB}\n{words[1]} OSError\n"


# Tests of private networks that can't be created or that fail.


def run_with(world: World, files: dict[str, str], directory: Path) -> tuple[int, str]:
    """Run a sandbox with `files` mounted over the host's files; check that no command starts.

    :returns: the exit status and standard error.
    """
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


def processes_of(world: World) -> dict[str, int]:
    """Return the pids of the processes in the simulated host's network, by process name."""
    wanted = os.readlink(f"/proc/{world.machine.pid}/ns/net")
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(directory / "ns" / "net") == wanted:
                found[(directory / "comm").read_text().strip()] = int(directory.name)
    return found


def processes_left(world: World) -> list[str]:
    """Return the names of usernsctl's processes that are still on the simulated host after 30 s.

    A process of pasta is not found, because its /proc/PID/ns/net can't be read. But pasta can't
    outlive usernsctl-network, which is PID 1 of pasta's PID namespace.
    """
    deadline = time.monotonic() + 30
    while True:
        found = [name for name in processes_of(world) if name.startswith("usernsctl-")]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


PASTA = next(path for path in ("/usr/local/bin/pasta", "/usr/bin/pasta") if os.path.exists(path))


@pytest.mark.parametrize(
    ("script", "cause", "said"),
    [
        ("#!/bin/sh\necho no luck >&2; exit 3\n", "pasta-failed", "status 3: no luck"),
        ("#!/bin/sh\nkill -9 $$\n", "pasta-failed", "killed by signal 9"),
        ("#!/bin/sh\nexit 0\n", "pasta-failed", "pasta has exited"),
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
def test_failures_of_pasta_are_reported_with_their_cause(
    world: World, tmp_path: Path, script: str, cause: str, said: str
) -> None:
    status, errors = run_with(world, {PASTA: script}, tmp_path)
    assert status == 125
    assert causes_in(errors) == [cause]
    assert said in errors


@pytest.mark.also_root
def test_private_network_fails_without_pasta(world: World, tmp_path: Path) -> None:
    copy = tmp_path / "pasta"
    copy.write_text("")
    copy.chmod(0o644)
    hide = f'mount --bind {copy} {PASTA}; exec "$@"'
    command = [USERNSCTL, "run", "--network", "private", "--", "true"]
    done = world.run("unshare", "--mount", "sh", "-ec", hide, "sh", *command)
    assert done.returncode == 125
    assert causes_in(done.stderr) == ["pasta-missing"]
    assert "apt-get install passt" in done.stderr


# Script that adds a default route through a nexthop object, so the kernel does not report the
# route's gateway.
HIDDEN_GATEWAY = """
ip link add lan type veth peer name port; ip link set port up
ip link set lan up; ip addr add 10.79.0.2/24 dev lan
ip nexthop add id 1 via 10.79.0.1 dev lan; ip route add default nhid 1
echo 0 >/proc/sys/net/ipv4/nexthop_compat_mode || exit 77
exec "$@"
"""


def test_private_network_fails_with_a_hidden_gateway(world: World) -> None:
    command = [USERNSCTL, "run", "--network", "private", "--", "true"]
    done = world.run("unshare", "--net", "sh", "-ec", HIDDEN_GATEWAY, "sh", *command)
    if done.returncode == 77:
        pytest.skip("/proc/sys is read-only here")
    assert done.returncode == 125
    assert "sysctl net.ipv4.nexthop_compat_mode=1" in done.stderr


@pytest.mark.also_root
def test_private_network_fails_without_the_tun_device(world: World) -> None:
    hide = 'mount --bind /proc/version /dev/net/tun; exec "$@"'
    command = [USERNSCTL, "run", "--network", "private", "--", "true"]
    done = world.run("unshare", "--mount", "sh", "-ec", hide, "sh", *command)
    assert done.returncode == 125
    assert causes_in(done.stderr) == ["tun-missing"], done.stderr


# Tests that private networks are removed when their sandboxes exit.


def start_waiting(world: World, *prefix: str) -> subprocess.Popen[str]:
    command = [USERNSCTL, "run", "--network", "private", "--", "sh", "-c", "echo up; sleep 1000"]
    popen = subprocess.Popen(
        world.command(*prefix, *command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert popen.stdout is not None
    assert popen.stdout.readline() == "up\n"
    return popen


def test_private_network_limits_tcp_send_buffers(world: World) -> None:
    """Check the limit on TCP send buffers: with larger buffers, pasta drops data and is slow."""
    popen = start_waiting(world)
    enter = ["nsenter", "-t", str(popen.pid), "--preserve-credentials", "-U", "-n"]
    done = subprocess.run([*enter, "cat", "/proc/sys/net/ipv4/tcp_wmem"], stdout=subprocess.PIPE)
    popen.kill()
    popen.communicate()
    assert done.stdout.split() == [b"4096", b"16384", b"524288"]


@pytest.mark.also_root
def test_private_network_ends_with_its_sandbox(world: World) -> None:
    popen = start_waiting(world)
    popen.kill()
    popen.communicate()
    assert processes_left(world) == []


@pytest.mark.parametrize("prefix", [(), ("env", "--ignore-signal=CHLD")])
def test_sandbox_ends_with_its_private_network(world: World, prefix: tuple[str, ...]) -> None:
    popen = start_waiting(world, *prefix)
    keeper = processes_of(world)["usernsctl-netwo"]
    (pasta,) = children_of(keeper)
    os.kill(pasta, signal.SIGKILL)
    _, errors = popen.communicate(timeout=60)
    assert popen.returncode == 137
    assert causes_in(errors) == ["network-ended"]
    assert processes_left(world) == []
