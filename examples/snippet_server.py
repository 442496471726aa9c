"""A web server that runs posted Python snippets, each in a new sandbox.

The sandboxes are started in advance, in a pool, so that requests don't wait for their start.

    python examples/snippet_server.py 127.0.0.1:8000
    curl --data-binary 'print(6 * 7)' http://127.0.0.1:8000/

The response is the snippet's output, with the exit status in the header X-Exit-Status. A snippet
can read the host's programs but no data, and has no network. It is killed after five seconds, or
when it has printed 64 KiB. Each of its processes is limited to 512 MiB of memory. For a limit on
the whole sandbox, with its files in memory, make the pool with `in_cgroup=`, as docs/python.md
describes.

The server also works in a container: docs/docker.md has an image. GET returns the state of the
pool. After SIGTERM the server finishes the requests that it has received, and ends.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import usernsctl as un

SECONDS = 5
LONGEST = 64 * 1024
MEMORY = 512 * 1024 * 1024
WAITING = 2
# The time limit for a sandbox to become free, and for a client to send its request.
PATIENCE = 30
PYTHON = "/usr/bin/python3"


class Server(ThreadingHTTPServer):
    """A server with a pool of sandboxes for all its threads."""

    # server_close() waits for the threads of all requests.
    daemon_threads = False
    request_queue_size = 128

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
        with self.pool.acquire(PATIENCE) as sandbox:
            timer = threading.Timer(SECONDS, sandbox.kill)
            timer.start()
            try:
                return run_limited(sandbox, text)
            finally:
                timer.cancel()


def run_limited(sandbox: un.Sandbox, text: bytes) -> tuple[int, bytes]:
    """Run a snippet in a sandbox, and kill it when it has printed too much."""
    with sandbox.popen([PYTHON, "-"], stdin=un.PIPE, stdout=un.PIPE, stderr=un.STDOUT) as snippet:
        assert snippet.stdin is not None
        assert snippet.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            snippet.stdin.write(text)
            snippet.stdin.close()
        output = snippet.stdout.read(LONGEST + 1)
        if len(output) > LONGEST:
            snippet.kill_tree()
    return snippet.wait(), output[:LONGEST]


class Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = PATIENCE

    def do_GET(self) -> None:
        self.answer(f"{self.server.pool.stats()}\n".encode())

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.send_error(411)
        elif int(length) > LONGEST:
            self.send_error(413)
        else:
            self.run_snippet(self.rfile.read(int(length)))

    def run_snippet(self, text: bytes) -> None:
        try:
            status, output = self.server.run_snippet(text)
        except un.UsernsError as error:
            self.send_error(503)
            print(f"503: {error}", file=sys.stderr, flush=True)
        else:
            self.answer(output, ("X-Exit-Status", str(status)))

    def answer(self, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
    name, _, port = address.rpartition(":")
    with Server((name, int(port))) as server:
        # In a thread of its own: shutdown() waits for serve_forever(), which this thread runs.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"listening on http://{name}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
