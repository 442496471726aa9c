"""Tests of a Jupyter kernel in gVisor, with the kernel spec that examples/clients installs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gvisor
import pytest
from conftest import TREE
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop
from processes import capture

PATIENCE = 60
# Create jupyter_client's event loop, which all kernels of the process share, before the tests count
# descriptors.
ensure_event_loop()


@pytest.fixture(autouse=True)
def _jupyter_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "RUNTIME", "CONFIG"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name))
    installer = TREE / "examples" / "clients" / "jupyter_kernel.py"
    done = capture([sys.executable, installer, "gvisor"], timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def execute(client: Any, code: str) -> tuple[str, str]:
    """Run code in the kernel; return its status and output."""
    request_id = client.execute(code)
    output = ""
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") != request_id:
            continue
        output += message["content"].get("text", "")
        if message["content"].get("execution_state") == "idle":
            break
    return reply_to(client, request_id)["status"], output


def reply_to(client: Any, request_id: str) -> Any:
    """Return the content of the kernel's reply to a request."""
    while True:
        message = client.get_shell_msg(timeout=PATIENCE)
        if message["parent_header"].get("msg_id") == request_id:
            return message["content"]


def test_jupyter_kernel_works_in_gvisor() -> None:
    manager = KernelManager(kernel_name="gvisor")
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=PATIENCE)
        assert execute(client, "n = 6")[0] == "ok"
        status, output = execute(client, "print(n * 7, open('/proc/version').read())")
        assert status == "ok"
        assert output.startswith("42 ")
        assert gvisor.BUILD in output
        request_id = client.execute("import time; print('sleeps'); time.sleep(1000)")
        while client.get_iopub_msg(timeout=PATIENCE)["content"].get("text") != "sleeps\n":
            pass
        manager.interrupt_kernel()
        assert reply_to(client, request_id)["ename"] == "KeyboardInterrupt"
        manager.restart_kernel()
        client.wait_for_ready(timeout=PATIENCE)
        assert execute(client, "n")[0] == "error"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
