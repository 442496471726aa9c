"""Tests that curl, pip and Python reach allowed names through a proxy."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import PUBLIC, NameServer, World, made
from proxied import PORT, Proxied, Server
from secure_server import make_certificate, package_pages, secure_server

PROXY = f"http://127.0.0.1:{PORT}"
VARIABLES = {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "https_proxy": PROXY, "http_proxy": PROXY}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with made(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest.fixture(scope="module")
def proxied(world: World) -> Iterator[Proxied]:
    names = NameServer(world)
    names.names = {"index.example": [PUBLIC], "evil.example": [PUBLIC]}
    proxied = Proxied(world, "index.example", names=names)
    yield proxied
    proxied.close()
    names.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def secure(world: World, certificate: Path) -> Iterator[Server]:
    with secure_server(world, certificate) as server:
        yield server


def test_curl_reaches_an_allowed_name_and_no_other(
    proxied: Proxied, secure: Server, certificate: Path
) -> None:
    secure.pages["/"] = b"page"
    curl = ["curl", "-sS", "--cacert", certificate.with_suffix(".crt")]
    done = proxied.world.run("sandbox", *curl, "https://index.example/", **VARIABLES)
    assert (done.stdout, done.returncode) == ("page", 0), done.stderr
    done = proxied.world.run("sandbox", *curl, "https://evil.example/", **VARIABLES)
    assert done.returncode == 56
    assert "403" in done.stderr
    # Without the proxy's environment variables, curl fails, because the sandbox can't resolve
    # names.
    done = proxied.world.run("sandbox", *curl, "https://index.example/")
    assert done.returncode == 6


def test_curl_follows_no_redirect_to_another_host(proxied: Proxied) -> None:
    answer = (
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    with (
        Server(proxied.world, answer=answer),
        Server(proxied.world, "169.254.169.254", 80) as metadata,
    ):
        done = proxied.world.run("sandbox", "curl", "-sL", "http://index.example/", **VARIABLES)
    assert done.stdout == "usernsctl: HOST is not a host name: an address is not a name\n"
    assert metadata.received == []


def test_pip_installs_from_an_allowed_index(
    proxied: Proxied, secure: Server, certificate: Path, tmp_path: Path
) -> None:
    secure.pages.update(package_pages())
    done = proxied.world.run(
        "sandbox",
        *(sys.executable, "-m", "pip", "install", "--no-cache-dir", "--no-deps", "--isolated"),
        *("--disable-pip-version-check", "--cert", certificate.with_suffix(".crt")),
        *("--index-url", "https://index.example/simple/", "--target", tmp_path / "out", "tiny"),
        HOME=str(tmp_path),
        **VARIABLES,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tiny.py").read_text() == "VALUE = 7\n"
    shutil.rmtree(tmp_path / "out")


def test_urllib_names_the_reason_of_a_refusal(proxied: Proxied) -> None:
    code = "import urllib.request as u; u.urlopen('https://evil.example/')"
    done = proxied.world.run("sandbox", sys.executable, "-c", code, **VARIABLES)
    assert "Tunnel connection failed: 403" in done.stderr
    assert "evil.example:443: no --allow option allows this host and port" in proxied.refused()
