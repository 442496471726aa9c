"""Test of the program that checks for gVisor's kernel, on another kernel."""

from __future__ import annotations

import subprocess
from importlib import resources
from pathlib import Path

VERIFIER = str(resources.files("usernsctl") / "_bin" / "usernsctl-verify")


def test_it_runs_nothing_on_this_kernel(tmp_path: Path) -> None:
    assert "gVisor" not in Path("/proc/version").read_text()
    done = subprocess.run(
        [VERIFIER, "touch", str(tmp_path / "ran")], capture_output=True, text=True
    )
    assert done.returncode == 125
    assert done.stderr.startswith("usernsctl: touch: not started")
    assert list(tmp_path.iterdir()) == []


def test_it_needs_a_command() -> None:
    done = subprocess.run([VERIFIER], capture_output=True, text=True)
    assert done.returncode == 125
    assert "no command" in done.stderr
