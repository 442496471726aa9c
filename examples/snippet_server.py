"""A web server that runs the Python snippets posted to it, each in a sandbox of its own.

    python examples/snippet_server.py 8000
    curl --data-binary 'print(6 * 7)' http://127.0.0.1:8000/

The answer is what the snippet printed, its exit status is in the header X-Exit-Status. A snippet
sees this machine's programs but none of its data, and no network; it gets five seconds.
"""

from __future__ import annotations

import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import usernsctl as un

SECONDS = 5
LONGEST = 64 * 1024
PYTHON = "/usr/bin/python3"


class Server(ThreadingHTTPServer):
    """Keeps one namespace, in which all its threads start their sandboxes."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.host = un.SandboxHost()

    def server_close(self) -> None:
        super().server_close()
        self.host.close()

    def run_snippet(self, text: bytes) -> tuple[int, bytes]:
        """Run a snippet; its exit status and its output."""
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as source:
            source.write(text)
            source.seek(0)
            with self.host.start(
                [PYTHON, "-"], stdin=source, stdout=output, stderr=output
            ) as sandbox:
                try:
                    status = sandbox.wait(SECONDS)
                except un.TimeoutExpired:
                    sandbox.kill(9)
                    status = sandbox.wait()
            output.seek(0)
            return status, output.read(LONGEST)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if length > LONGEST:
            self.send_error(413)
            return
        status, output = self.server.run_snippet(self.rfile.read(length))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(output)))
        self.send_header("X-Exit-Status", str(status))
        self.end_headers()
        self.wfile.write(output)

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with Server(("127.0.0.1", port)) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
