"""Test of a Jupyter kernel in a sandbox that has no network, only published ports."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import SCRIPTS
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_core.utils import ensure_event_loop

USERNSCTL = str(SCRIPTS / "usernsctl")
PATIENCE = 60
# Create jupyter_client's event loop, which all kernels of the process share, before the tests count
# descriptors.
ensure_event_loop()


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_published_jupyter_kernel_has_no_network(tmp_path: Path) -> None:
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    file = tmp_path / "kernel.json"
    connection = {"transport": "tcp", "ip": "127.0.0.1", "key": "x", **ports}
    file.write_text(json.dumps({**connection, "signature_scheme": "hmac-sha256"}))
    publish = [word for port in ports.values() for word in ("--publish", f"{port}:{port}")]
    bind = ["--bind", str(file), "--bind", sys.prefix]
    kernel = [sys.executable, "-m", "ipykernel_launcher", "-f", str(file)]
    with subprocess.Popen([USERNSCTL, "run", *publish, *bind, "--", *kernel]) as process:
        client = BlockingKernelClient(connection_file=str(file))
        try:
            wait_for_kernel(ports["hb_port"])
            client.load_connection_file()
            client.start_channels()
            client.wait_for_ready(timeout=PATIENCE)
            output = execute(client, "print(6 * 7)")
            assert output == "42\n"
            code = "import socket; print(socket.socket().connect_ex(('192.0.2.1', 80)))"
            # connect(2) fails with ENETUNREACH (101), because the sandbox has no network.
            assert execute(client, code) == "101\n"
            client.shutdown()
            assert process.wait(PATIENCE) == 0
        finally:
            client.stop_channels()
            process.kill()


def wait_for_kernel(port: int) -> None:
    """Connect until the kernel sends its ZMTP greeting.

    While the kernel does not listen, each connection to the published port is closed at once.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection,
        ):
            if connection.recv(1):
                return
        time.sleep(0.1)
    raise TimeoutError("the kernel did not greet")


def execute(client: BlockingKernelClient, code: str) -> str:
    """Run code in the kernel; return its output."""
    output = ""

    def hook(message: dict[str, dict[str, str]]) -> None:
        nonlocal output
        output += message["content"].get("text", "")

    client.execute_interactive(code, timeout=PATIENCE, output_hook=hook)
    return output
