"""HTTP server on 127.0.0.1 that serves the demo's records as pages of JSON."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

STATIONS = [{"id": n, "name": f"station {n:02}", "metres": 17.5 * n} for n in range(1, 58)]
PAGE_SIZE = 25


class Handler(BaseHTTPRequestHandler):
    """Handler of GET /stations?page=N, which returns page N and the number of the next page."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        page = parse_qs(url.query).get("page", ["1"])[0]
        if url.path != "/stations" or not page.isdecimal():
            self.send_error(404)
            return
        start = (int(page) - 1) * PAGE_SIZE
        more = start + PAGE_SIZE < len(STATIONS)
        answer = {
            "stations": STATIONS[start : start + PAGE_SIZE],
            "next": int(page) + 1 if more else None,
        }
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing, so that only the connector's messages appear in the demo."""


@contextlib.contextmanager
def serve() -> Iterator[str]:
    """Run the server in a thread during a ``with`` block; yield the server's URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
