"""A web server that runs an Airbyte connector, in a new sandbox for each request.

    python examples/connector_server.py ENVIRONMENT 8000 [host|none]
    curl http://127.0.0.1:8000/spec
    curl --data-binary @files.json http://127.0.0.1:8000/read

ENVIRONMENT is a virtual environment with airbyte-cdk. The body of a POST is a JSON object that maps
file names to contents: config.json, manifest.yaml and, for read, configured_catalog.json. The
response is the connector's output, one message per line. The header X-Exit-Status contains the exit
status.

The imports of the connector take seconds. They run only once, when the server starts and creates a
template. Each request starts a sandbox from the template, with the posted files.

By default the connector uses the host's network. The argument none is for older releases of runsc,
which can't save a sandbox with the host's network. Without a network, only spec is useful.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import usernsctl as un

MODULE = "airbyte_cdk.cli.source_declarative_manifest"
Network = Literal["none", "host"]
VERBS = ("spec", "check", "discover", "read")
LONGEST = 1 << 20
SECONDS = 60

# The program in the sandbox. It writes the posted files, which disappear with the sandbox, and runs
# the connector.
PROGRAM = f"""
import json, sys
from {MODULE} import run

for name, content in json.load(sys.stdin).items():
    with open("/tmp/" + name.replace("/", "_"), "w") as file:
        file.write(content if isinstance(content, str) else json.dumps(content))
sys.argv[0] = "source-declarative-manifest"
sys.exit(run())
"""


class Server(ThreadingHTTPServer):
    """A server with a template, from which it starts a sandbox for each request."""

    def __init__(self, environment: str, address: tuple[str, int], network: Network) -> None:
        super().__init__(address, Handler)
        self.host = un.SandboxHost(binds=[environment], network=network)
        python = f"{environment}/bin/python"
        try:
            self.template = self.host.python_template(python=python, preload=["json", MODULE])
        except BaseException:
            self.host.close()
            raise

    def server_close(self) -> None:
        super().server_close()
        self.template.close()
        self.host.close()

    def call(self, verb: str, files: bytes) -> tuple[int, bytes]:
        """Run a command of the connector; return its exit status and output."""
        words = [verb]
        if verb != "spec":
            words += ["--config", "/tmp/config.json", "--manifest-path", "/tmp/manifest.yaml"]
        if verb == "read":
            words += ["--catalog", "/tmp/configured_catalog.json"]
        with self.template.start(
            ["-c", PROGRAM, *words], stdin=un.PIPE, stdout=un.PIPE, timeout=SECONDS
        ) as sandbox:
            output, _ = sandbox.communicate(files, SECONDS)
            return sandbox.wait(), output


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer(b"{}")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if length > LONGEST:
            self.send_error(413)
        else:
            self.answer(self.rfile.read(length))

    def answer(self, files: bytes) -> None:
        verb = self.path.removeprefix("/")
        if verb not in VERBS:
            self.send_error(404)
            return
        try:
            status, output = self.server.call(verb, files)
        except un.TimeoutExpired:
            self.send_error(504)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Content-Length", str(len(output)))
        self.send_header("X-Exit-Status", str(status))
        self.end_headers()
        self.wfile.write(output)


if __name__ == "__main__":
    if (
        len(sys.argv) < 3
        or not sys.argv[2].isdecimal()
        or sys.argv[3:] not in ([], ["host"], ["none"])
    ):
        sys.exit("usage: connector_server.py ENVIRONMENT PORT [host|none]")
    network: Network = "none" if sys.argv[3:] == ["none"] else "host"
    with Server(sys.argv[1], ("127.0.0.1", int(sys.argv[2])), network) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
