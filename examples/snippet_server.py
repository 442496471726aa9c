"""A web server that runs posted Python snippets, each in a new sandbox.

The sandboxes are started in advance, in a pool, so that requests don't wait for their start.

    python examples/snippet_server.py 8000
    curl --data-binary 'print(6 * 7)' http://127.0.0.1:8000/

The response is the snippet's output, with the exit status in the header X-Exit-Status. A snippet
can read the host's programs but no data, and has no network. It is killed after five seconds, or
when it has printed 64 KiB. Each of its processes is limited to 512 MiB of memory. For a limit on
the whole sandbox, with its files in memory, make the pool with `in_cgroup=`, as docs/python.md
describes.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import usernsctl as un

SECONDS = 5
LONGEST = 64 * 1024
MEMORY = 512 * 1024 * 1024
WAITING = 2
PYTHON = "/usr/bin/python3"


class Server(ThreadingHTTPServer):
    """A server with a pool of sandboxes for all its threads."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, Handler)
        self.host = un.SandboxHost(rlimits=[f"as={MEMORY}"])
        self.pool = self.host.pool(WAITING)

    def server_close(self) -> None:
        super().server_close()
        self.pool.close()
        self.host.close()

    def run_snippet(self, text: bytes) -> tuple[int, bytes]:
        """Run a snippet; return its exit status, or -N after signal N, and its first output."""
        with self.pool.acquire() as sandbox:
            timer = threading.Timer(SECONDS, sandbox.kill)
            timer.start()
            with sandbox.popen(
                [PYTHON, "-"], stdin=un.PIPE, stdout=un.PIPE, stderr=un.STDOUT
            ) as snippet:
                assert snippet.stdin is not None
                assert snippet.stdout is not None
                with contextlib.suppress(BrokenPipeError):
                    snippet.stdin.write(text)
                    snippet.stdin.close()
                output = snippet.stdout.read(LONGEST + 1)
                if len(output) > LONGEST:
                    snippet.kill_tree()
            timer.cancel()
            return snippet.wait(), output[:LONGEST]


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
        """Log nothing."""


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with Server(("127.0.0.1", port)) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
