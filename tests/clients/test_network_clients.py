"""Tests of curl, pip, git and redis-cli in sandboxes that reach allowed names or addresses.

The servers are in virtual networks (tests/network_world.py, tests/networks.py).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networks
import pytest
from conftest import SCRIPTS
from network_world import PUBLIC, World, made
from proxied import Server
from secure_server import make_certificate, package_pages, secure_server

USERNSCTL = str(SCRIPTS / "usernsctl")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    names = {"index.example": [PUBLIC], "evil.example": [PUBLIC]}
    with made(tmp_path_factory.mktemp("world"), names) as world:
        yield world


@pytest.fixture(scope="module")
def secure(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Yield the HTTPS server of index.example, and the path of the server's certificate.

    The server serves a Python package, a git repository and the page /page.
    """
    directory = tmp_path_factory.mktemp("secure")
    certificate = make_certificate(directory)
    with secure_server(world, certificate) as server:
        server.pages.update(package_pages())
        server.pages.update(repository_pages(directory))
        server.pages["/page"] = b"page"
        yield server, certificate.with_suffix(".crt")


def repository_pages(directory: Path) -> dict[str, bytes]:
    """Return the files of a git repository by path, so that a plain HTTP server can serve them."""
    bare = directory / "repo.git"
    work = str(directory / "work")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (
        ["git", "init", "-q", "-b", "main", work],
        ["git", "-C", work, *identity, "commit", "-q", "--allow-empty", "-m", "first"],
        ["git", "clone", "-q", "--bare", work, str(bare)],
        ["git", "-C", str(bare), "update-server-info"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return {
        f"/repo.git/{file.relative_to(bare)}": file.read_bytes()
        for file in bare.rglob("*")
        if file.is_file()
    }


def run_allowed(world: World, certificate: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a sandbox whose only allowed name is index.example."""
    bind = ["--bind", f"{certificate}:/ca.crt:ro", "--bind", sys.prefix]
    variables = ["SSL_CERT_FILE=/ca.crt", "PIP_CERT=/ca.crt", "GIT_SSL_CAINFO=/ca.crt"]
    env = [word for variable in variables for word in ("--env", variable)]
    return world.run(
        "machine", *(USERNSCTL, "run", "--allow", "index.example", *bind, *env, "--", *command)
    )


CURL = """
cd /tmp
curl -sS --cacert /ca.crt https://index.example/page; echo
curl -sS --cacert /ca.crt -L http://index.example/; echo
curl -sS --cacert /ca.crt https://evil.example/ || echo "status $?"
curl -sS --noproxy '*' --connect-timeout 5 http://index.example/ || echo "status $?"
"""


def test_curl_reaches_an_allowed_name_and_follows_its_redirects(
    world: World, secure: tuple[Server, Path]
) -> None:
    redirect = (
        b"HTTP/1.1 302 Found\r\nLocation: https://index.example/page\r\n"
        b"Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    with Server(world, answer=redirect):
        done = run_allowed(world, secure[1], "sh", "-c", CURL)
    # curl exits with status 56 if the proxy denies a tunnel. Without the proxy, curl exits with
    # status 6, because it can't resolve names.
    assert done.stdout.splitlines() == ["page", "page", "status 56", "status 6"], done.stderr
    assert "refused evil.example:443" in done.stderr


def test_pip_installs_from_an_allowed_index(world: World, secure: tuple[Server, Path]) -> None:
    install = [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-deps", "-q"]
    where = ["--index-url", "https://index.example/simple/", "--target", "/tmp/out", "tiny"]
    script = f"{' '.join([*install, *where])} && cat /tmp/out/tiny.py"
    done = run_allowed(world, secure[1], "sh", "-c", script)
    assert done.stdout == "VALUE = 7\n", done.stderr


def test_git_clones_from_an_allowed_host(world: World, secure: tuple[Server, Path]) -> None:
    script = "git clone -q https://index.example/repo.git /tmp/x && git -C /tmp/x log --format=%s"
    done = run_allowed(world, secure[1], "sh", "-c", script)
    assert done.stdout == "first\n", done.stderr


@pytest.mark.parametrize(
    ("options", "is_reached"),
    [
        (["--network", "private"], True),
        (["--allow", f"{networks.WEB}/32:6379"], True),
        (["--allow", f"{networks.WEB}/32:5432"], False),
    ],
)
def test_redis_client_reaches_allowed_addresses_only(
    options: list[str], is_reached: bool, tmp_path: Path
) -> None:
    server = shutil.which("redis-server")
    assert server is not None, "install tests/clients/packages.apt"
    with networks.world(tmp_path) as world:
        words = ["--bind", networks.WEB, "--protected-mode", "no", "--save", ""]
        world.serve_outside(server, *words, "--dir", str(tmp_path))
        client = ["timeout", "5", "redis-cli", "-h", networks.WEB]
        script = f"{' '.join(client)} set key value; {' '.join(client)} get key"
        done = world.run(USERNSCTL, "run", *options, "--", "sh", "-c", script)
    assert (done.stdout.split() == ["OK", "value"]) == is_reached, done.stdout + done.stderr
