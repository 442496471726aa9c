"""Tests of real programs that reach allowed names through a proxy: curl, pip and Python."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from network_world import PUBLIC, NameServer, World, made
from proxied import PORT, Proxied, Server

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
    """Return a file with a key and a certificate of index.example, which signs itself."""
    file = tmp_path_factory.mktemp("certificate") / "index.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            "/CN=index.example",
            "-addext",
            "subjectAltName=DNS:index.example",
            "-days",
            "2",
            "-keyout",
            file,
            "-out",
            file.with_suffix(".crt"),
        ],
        check=True,
        capture_output=True,
    )
    with file.open("a") as both:
        both.write(file.with_suffix(".crt").read_text())
    return file


@pytest.fixture
def secure(world: World, certificate: Path) -> Iterator[Server]:
    """Yield a server of index.example that answers each request over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(server: Server, connection: socket.socket, received: bytearray) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            while b"\r\n\r\n" not in received:
                data = tls.recv(65536)
                if not data:
                    return
                received += data
            page = server.pages.get(received.split(b" ")[1].decode())
            status = "404 Not Found" if page is None else "200 OK"
            page = page or b""
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(page)}\r\nConnection: close\r\n"
            kind = "Content-Type: text/html\r\n\r\n"
            tls.sendall(head.encode() + kind.encode() + page)
            tls.unwrap()

    with Server(world, port=443, serve=serve) as server:
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
    # Names are not resolved in the sandbox.
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


def wheel() -> bytes:
    """Return a wheel of the package `tiny`."""
    files = {
        "tiny.py": "VALUE = 7\n",
        "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n",
        "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    files["tiny-1.0.dist-info/RECORD"] = "".join(f"{name},,\n" for name in files)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return made.getvalue()


def test_pip_installs_from_an_allowed_index(
    proxied: Proxied, secure: Server, certificate: Path, tmp_path: Path
) -> None:
    file = wheel()
    name = "tiny-1.0-py3-none-any.whl"
    link = f'<a href="/files/{name}#sha256={hashlib.sha256(file).hexdigest()}">{name}</a>'
    secure.pages.update({"/simple/tiny/": link.encode(), f"/files/{name}": file})
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
