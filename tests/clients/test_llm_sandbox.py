"""Tests of an llm-sandbox session in gVisor, with the session class in examples/clients."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import gvisor
import pytest
from conftest import SCRIPTS
from llm_sandbox.exceptions import SandboxTimeoutError


@pytest.fixture
def open_session(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return GvisorSession, a class that opens a session when it is called.

    Its module looks for usernsctl in PATH during the import.
    """
    monkeypatch.setenv("PATH", f"{SCRIPTS}:{os.environ['PATH']}")
    return importlib.import_module("llm_sandbox_session").GvisorSession


def test_llm_sandbox_session_runs_in_gvisor(open_session: Any, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("text")
    with open_session(lang="python") as session:
        code = "print(open('/proc/version').read()); open('/sandbox/kept', 'w').write('1')"
        done = session.run(code)
        assert (done.exit_code, done.stderr) == (0, "")
        assert gvisor.BUILD in done.stdout
        session.copy_to_runtime(str(tmp_path / "in"), "/sandbox/in")
        done = session.run("print(open('/sandbox/in').read() + open('/sandbox/kept').read())")
        assert done.stdout == "text1\n"
        assert session.run("raise SystemExit(3)").exit_code == 3
        session.copy_from_runtime("/sandbox/in", str(tmp_path / "out"))
    assert (tmp_path / "out").read_text() == "text"


def test_llm_sandbox_timeout_ends_the_sandbox(open_session: Any) -> None:
    with open_session(lang="python") as session, pytest.raises(SandboxTimeoutError):
        session.run("import time; time.sleep(100)", timeout=5)
