"""Tests of ``usernsctl ns create --net private`` in a virtual network (tests/networks.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS
from networks import ASK, World
from processes import wait_until

USERNSCTL = str(SCRIPTS / "usernsctl")
REACHED = {f"{networks.WEB}/80": f"outside ::ffff:{networks.WEB}"}
DENIED = [f"{address}/80" for address in (networks.BRIDGE, networks.MACHINE, networks.METADATA)]


class Kept:
    """The named namespace ``web``, which has a private network, and commands in it."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.env = {**os.environ, "XDG_RUNTIME_DIR": str(directory)}
        directory.chmod(0o700)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run usernsctl on the simulated host of the virtual network; return the result."""
        return self.world.run(USERNSCTL, *words, env=self.env)

    def ask(self, *words: str) -> dict[str, str]:
        """Run the client ASK with the command prefix `words`; return the web servers' responses."""
        done = self.run(*words, "/usr/bin/python3", "-c", ASK, *REACHED, *DENIED)
        assert done.returncode == 0, done.stderr
        return dict(line.split(" ", 1) for line in done.stdout.splitlines())

    @property
    def holder(self) -> int:
        (record,) = json.loads(self.run("ns", "list", "--json").stdout)
        assert record["network"] == "private"
        return int(record["pid"])


@pytest.fixture
def kept(world: World, tmp_path: Path) -> Iterator[Kept]:
    made = Kept(world, tmp_path)
    done = made.run("ns", "create", "web", "-r", "--net", "private")
    assert done.returncode == 0, done.stderr
    yield made
    made.run("ns", "remove", "web")
    assert networks_left(world) == []


def networks_left(world: World) -> list[str]:
    """Return the private networks' processes on the simulated host that still run after 30 s."""
    deadline = time.monotonic() + 30
    machine = os.readlink(f"/proc/{world.machine.pid}/ns/net")
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "comm").read_text().strip()
                if name.startswith(("usernsctl-netwo", "pasta")):
                    found += [process.name] * (os.readlink(process / "ns/net") == machine)
            except OSError:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.mark.also_root
def test_sandboxes_and_commands_share_the_network(kept: Kept) -> None:
    in_web = ("run", "--in", "web", "--network", "private")
    for words in (in_web, ("ns", "exec", "web")):
        answers = kept.ask(*words, "--")
        assert {word: answers[word] for word in REACHED} == REACHED
        # The namespace has a copy of one of the simulated host's addresses (pasta). So a connection
        # to this address fails with ECONNREFUSED, as on a host without a server.
        refused = {"ConnectionRefusedError", "OSError", "TimeoutError"}
        assert {answers[word] for word in DENIED} <= refused
    done = kept.run(*in_web, "--", "/usr/bin/python3", "-c", ASK, "web.example/443")
    assert done.stdout == f"web.example/443 outside ::ffff:{networks.WEB}\n", done.stderr
    # Check that a sandbox in the namespace has no network by default.
    assert set(kept.ask("run", "--in", "web", "--").values()) == {"OSError"}


def test_hosts_join_the_network(kept: Kept) -> None:
    code = (
        "import sys, usernsctl\n"
        "host = usernsctl.SandboxHost(namespace='web', network='private')\n"
        "ask = ['/usr/bin/python3', '-c', *sys.argv[1:]]\n"
        "with host, host.start(None) as box:\n"
        "    print(box.run(ask, capture_output=True, text=True).stdout)\n"
        "    try: host.start(None, publish=[80])\n"
        "    except ValueError as error: print(error)\n"
    )
    words = [*REACHED, *DENIED]
    done = kept.world.run(sys.executable, "-c", code, ASK, *words, env=kept.env)
    assert done.returncode == 0, done.stderr
    assert f"{networks.WEB}/80 outside ::ffff:{networks.WEB}\n" in done.stdout
    assert done.stdout.count("Error\n") == len(DENIED)
    assert "has no published ports" in done.stdout


@pytest.mark.parametrize("network", [(), ("--network", "private")])
def test_publish_in_a_named_namespace_is_refused(kept: Kept, network: tuple[str, ...]) -> None:
    options = ("--in", "web", *network, "--publish", "18080:80")
    done = kept.run("run", *options, "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "the network of the namespace web has no published ports" in done.stderr


@pytest.mark.parametrize("option", ["--network=private", "--allow=192.0.2.1/32"])
def test_a_namespace_with_another_network_is_refused(
    world: World, tmp_path: Path, option: str
) -> None:
    """Check that a namespace with another type of network is rejected.

    Such a network would not deny the addresses of the host.
    """
    made = Kept(world, tmp_path)
    done = made.run("ns", "create", "web", "-r", "--net")
    assert done.returncode == 0, done.stderr
    try:
        done = made.run("run", "--in", "web", option, "--", "echo", "started")
        assert (done.returncode, done.stdout) == (125, "")
        assert "the namespace web was created with --net, not --net private" in done.stderr
    finally:
        done = made.run("ns", "remove", "web")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "options",
    [("--net", "private", "--net"), ("-rn", "--net=private"), ("--net", "--net", "private")],
)
def test_private_network_and_another_one_exclude_each_other(
    world: World, tmp_path: Path, options: tuple[str, ...]
) -> None:
    made = Kept(world, tmp_path)
    done = made.run("ns", "create", "web", *options)
    assert "--net private and --net (-n) exclude each other" in done.stderr
    assert done.returncode != 0
    assert made.run("ns", "list").stdout == ""


@pytest.mark.also_root
def test_network_ends_when_its_holder_is_killed(kept: Kept) -> None:
    os.kill(kept.holder, signal.SIGKILL)
    assert networks_left(kept.world) == []


def test_namespace_ends_when_pasta_is_killed(kept: Kept) -> None:
    holder = kept.holder
    children = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
    (keeper,) = map(int, children)
    (pasta,) = map(int, Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split())
    os.kill(pasta, signal.SIGKILL)
    wait_until(lambda: kept.run("ns", "list").stdout == "")
    done = kept.run("run", "--in", "web", "--network", "private", "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "there is no namespace 'web'" in done.stderr


@pytest.mark.also_root
def test_holder_has_only_a_pidfd_open(kept: Kept) -> None:
    files = [os.readlink(file) for file in Path(f"/proc/{kept.holder}/fd").iterdir()]
    assert files == ["anon_inode:[pidfd]"] or files[0].startswith("pidfd:")


@pytest.mark.also_root
@pytest.mark.parametrize("script", ["echo no luck >&2; exit 3", "kill -9 $$"])
def test_failed_network_leaves_no_namespace_or_process(
    world: World, tmp_path: Path, script: str
) -> None:
    made = Kept(world, tmp_path)
    program = tmp_path / "pasta"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    hide = f'mount --bind {program} /usr/bin/pasta; exec "$@"'
    command = [USERNSCTL, "ns", "create", "web", "-r", "--net=private"]
    done = world.run("unshare", "-m", "sh", "-ec", hide, "sh", *command, env=made.env)
    assert done.returncode == 125
    assert "network: " in done.stderr
    assert "Traceback" not in done.stderr
    assert made.run("ns", "list").stdout == ""
    assert networks_left(world) == []
