r"""A web server that runs posted Python snippets, each in a new sandbox.

    python examples/snippet_server.py 127.0.0.1:8000
    curl --data-binary 'print(6 * 7)' http://127.0.0.1:8000/

The response is the snippet's output. The header X-Exit-Status contains the snippet's exit status,
and X-Reason why the snippet ended. A pool starts sandboxes in advance, so that requests don't wait
for a start.

A snippet can read the host's programs, but no data, and has no network. It is killed after five
seconds, or when it has printed 64 KiB. Each of its processes may use 512 MiB of memory; the whole
sandbox may use 1 GiB, including files in memory, and 64 processes. At most 20 snippets run at the
same time; other requests wait.

A snippet with files is posted as JSON. The response then contains the requested result files:

    curl --json '{"code": "open(\"b\", \"w\").write(open(\"a\").read() * 2)",
                  "files": {"a": "text"}, "results": ["b"]}' http://127.0.0.1:8000/

The server also works in a container; docs/docker.md has an image. GET returns the state of the
pool. After SIGTERM, the server answers the requests that it has received, and exits.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import usernsctl as un

SECONDS = 5
LONGEST = 64 * 1024
MEMORY = 512 * 1024 * 1024
WAITING = 2
AT_ONCE = 20
# Timeout in seconds, both for a sandbox to become free and for a client to send its request.
PATIENCE = 30
PYTHON = "/usr/bin/python3"


class Server(ThreadingHTTPServer):
    """A server whose threads share a pool of sandboxes."""

    # Make server_close() wait until the threads of all requests have ended.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int]) -> None:
        # Root in a container may be unable to create a control group that limits processes. The
        # container's own limit applies then.
        self.host = un.SandboxHost(
            rlimits=[f"as={MEMORY}"],
            memory=2 * MEMORY,
            pids=64,
            limits="strict" if os.geteuid() else "best-effort",
        )
        self.free = threading.BoundedSemaphore(AT_ONCE)
        self.pool = self.host.pool(WAITING)
        # Bind the address last: if bind(2) fails, TCPServer calls server_close(), which needs the
        # pool.
        super().__init__(address, Handler)

    def server_close(self) -> None:
        super().server_close()
        self.pool.close()
        self.host.close()

    def run_snippet(self, task: dict[str, Any]) -> tuple[un.Result[bytes], dict[str, str]]:
        """Run a snippet; return its result, with the output, and the contents of result files."""
        with self.free, self.pool.acquire(PATIENCE) as sandbox:
            for name, content in task.get("files", {}).items():
                sandbox.write_file(f"/tmp/{name}", content.encode())
            done = run_limited(sandbox, task["code"].encode())
            return done, {name: read_result(sandbox, name) for name in task.get("results", ())}


def run_limited(sandbox: un.Sandbox, code: bytes) -> un.Result[bytes]:
    """Run a snippet in a sandbox, with limits of time and output; return its result."""
    command = [PYTHON, "-"]
    try:
        return sandbox.run(
            command,
            input=code,
            cwd="/tmp",
            stdout=un.PIPE,
            stderr=un.STDOUT,
            timeout=SECONDS,
            max_output=LONGEST,
            on_overflow="kill",
        )
    except un.TimeoutExpired as expired:
        result = un.Result(command, -signal.SIGKILL, expired.output)
        result.reason = "timeout"
        return result


def read_result(sandbox: un.Sandbox, name: str) -> str:
    """Return the content of a file in the sandbox, or why it can't be read."""
    try:
        return sandbox.read_file(f"/tmp/{name}", max_bytes=LONGEST).decode(errors="replace")
    except un.SandboxFileError as error:
        return f"error: {error}"


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

    def run_snippet(self, body: bytes) -> None:
        is_json = self.headers.get_content_type() == "application/json"
        try:
            task = json.loads(body) if is_json else {"code": body.decode()}
            done, files = self.server.run_snippet(task)
        except un.UsernsError as error:
            self.send_error(503)
            print(f"503: {error}", file=sys.stderr, flush=True)
        except (ValueError, KeyError, TypeError, AttributeError):
            self.send_error(400)
        else:
            output = done.stdout
            if is_json:
                shown = {"output": output.decode(errors="replace"), "files": files}
                output = json.dumps(shown).encode()
            status, reason = str(done.returncode), str(done.reason)
            self.answer(output, ("X-Exit-Status", status), ("X-Reason", reason))

    def answer(self, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for header in headers:
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, not even a line for each request."""


def main() -> None:
    address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:8000"
    name, _, port = address.rpartition(":")
    # An empty name would stand for all addresses of the host.
    if not name or not port.isdecimal() or len(sys.argv) > 2:
        sys.exit("usage: snippet_server.py [ADDRESS:PORT]")
    with Server((name, int(port))) as server:
        # Call shutdown() in another thread: it waits for serve_forever(), which runs in this
        # thread.
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
        print(f"listening on http://{name}:{server.server_port}/", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
