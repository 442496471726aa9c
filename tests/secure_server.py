"""HTTPS server that serves a package index on the simulated internet of tests/network_world.py."""

from __future__ import annotations

import hashlib
import io
import socket
import ssl
import subprocess
import zipfile
from pathlib import Path

from network_world import World
from proxied import Server


def make_certificate(directory: Path) -> Path:
    """Create a self-signed certificate for index.example.

    :returns: a file with the key and the certificate. A second file, with the suffix ``.crt``,
        contains only the certificate.
    """
    file = directory / "index.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = ["-subj", "/CN=index.example", "-addext", "subjectAltName=DNS:index.example"]
    files = ["-days", "2", "-keyout", str(file), "-out", str(file.with_suffix(".crt"))]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    with file.open("a") as both:
        both.write(file.with_suffix(".crt").read_text())
    return file


def secure_server(world: World, certificate: Path) -> Server:
    """Return a server that answers requests for pages of index.example over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(server: Server, connection: socket.socket, received: bytearray) -> None:
        with context.wrap_socket(connection, server_side=True) as tls:
            while b"\r\n\r\n" not in received:
                data = tls.recv(65536)
                if not data:
                    return
                received += data
            path, _, _ = received.split(b" ")[1].decode().partition("?")
            page = server.pages.get(path)
            status = "404 Not Found" if page is None else "200 OK"
            page = page or b""
            head = f"HTTP/1.1 {status}\r\nContent-Length: {len(page)}\r\nConnection: close\r\n"
            kind = "Content-Type: text/html\r\n\r\n"
            tls.sendall(head.encode() + kind.encode() + page)
            tls.unwrap()

    return Server(world, port=443, serve=serve)


def package_pages() -> dict[str, bytes]:
    """Return the pages of an index with one package, `tiny`, by path."""
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
    wheel, name = made.getvalue(), "tiny-1.0-py3-none-any.whl"
    link = f'<a href="/files/{name}#sha256={hashlib.sha256(wheel).hexdigest()}">{name}</a>'
    return {"/simple/tiny/": link.encode(), f"/files/{name}": wheel}
