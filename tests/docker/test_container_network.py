"""Tests of ``in-gvisor --network=private`` in containers, with an image from docs/docker.md."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator

import pytest

from docker.engine import TREE, Engine
from docker.recipes import build_recipe

# Profile that also allows the system calls of pasta and nft, which docker/seccomp.json denies.
SECCOMP = f"--security-opt=seccomp={TREE}/docker/seccomp-private-network.json"
IMAGE = "usernsctl-test/network"
RUN = ["run", "--rm", "--network=host", SECCOMP, "--entrypoint=/usr/local/bin/in-gvisor"]
# Program that tries to connect to services of the host, whose network the container uses.
ASK = """
import socket, sys
print(open("/etc/resolv.conf").read().split())
for word in sys.argv[1:]:
    address, _, port = word.rpartition(":")
    try:
        socket.create_connection((address, int(port)), timeout=5)
        print("connected")
    except OSError as error:
        print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def engine(plain: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    begin = "FROM prelude-python\nUSER root\nRUN apt-get"
    build_recipe(plain, "docs/docker.md", begin, tmp_path_factory.mktemp("image"), image=IMAGE)
    return plain


@pytest.fixture
def server() -> Iterator[int]:
    with socket.create_server(("0.0.0.0", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture(scope="module")
def tun(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the docker option for a TUN device that all users may open, as on most hosts."""
    device = tmp_path_factory.mktemp("device") / "tun"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(10, 200))
    device.chmod(0o666)
    return f"--device={device}:/dev/net/tun"


def own_address() -> str:
    """Return an address of the host: 127.0.0.1 only if the host has no route to other hosts."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.timeout(600)
def test_private_network_denies_addresses_of_the_container(
    engine: Engine, server: int, tun: str
) -> None:
    python = "/opt/usernsctl/bin/python3"
    words = [f"127.0.0.1:{server}", f"{own_address()}:{server}"]
    options = ["--network=private", "--"]
    done = engine(*RUN, tun, IMAGE, *options, python, "-c", ASK, *words)
    assert done.returncode == 0, done.stderr
    resolver, *answers = done.stdout.splitlines()
    assert resolver == "['nameserver', '169.254.1.1']"
    assert set(answers) <= {"ConnectionRefusedError", "OSError", "TimeoutError"}
    assert len(answers) == len(words)


def test_private_network_fails_without_the_tun_device(engine: Engine) -> None:
    done = engine(*RUN, IMAGE, "--network=private", "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "[tun-missing]" in done.stderr


def test_the_profile_without_networks_is_named(engine: Engine, tun: str) -> None:
    profile = f"--security-opt=seccomp={TREE}/docker/seccomp.json"
    run = [profile if word == SECCOMP else word for word in RUN]
    done = engine(*run, tun, IMAGE, "--network=private", "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    cause = "seccomp-denies-network"
    assert f"[{cause}]" in done.stderr
    assert "seccomp-profile --private-network >seccomp.json" in done.stderr


def test_an_image_without_a_launch_is_named(plain: Engine) -> None:
    from docker.conftest import PRELUDE

    done = plain("run", "--rm", SECCOMP, PRELUDE, "--network=private", "--", "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "there is no /etc/usernsctl/launch.private-network: freeze one" in done.stderr
