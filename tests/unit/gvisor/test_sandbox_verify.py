"""Test that usernsctl-verify, which must detect gVisor's kernel, fails on another kernel."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from processes import capture

VERIFIER = str(resources.files("usernsctl") / "_bin" / "usernsctl-verify")


def test_verifier_starts_nothing_outside_gvisor(tmp_path: Path) -> None:
    assert "gVisor" not in Path("/proc/version").read_text()
    done = capture([VERIFIER, "touch", str(tmp_path / "ran")])
    assert done.returncode == 125
    assert done.stderr.startswith("usernsctl: touch: not started")
    assert list(tmp_path.iterdir()) == []


def test_verifier_without_a_command_fails() -> None:
    done = capture([VERIFIER])
    assert done.returncode == 125
    assert "no command" in done.stderr
