"""Tests of Yama's ptrace_scope. Its value 3 can't be lowered again, so this file must run last."""

from __future__ import annotations

from pathlib import Path

import gvisor
import pytest
from logins import Login, blocking

SCOPE = Path("/proc/sys/kernel/yama/ptrace_scope")
CAUSE = "yama-ptrace-scope"


@pytest.mark.parametrize("scope", [1, 2])
def test_ptrace_scope_1_and_2_do_not_matter(user: Login, scope: int) -> None:
    SCOPE.write_text(str(scope))
    done = user("usernsctl", "run", "--", "cat", "/proc/version")
    assert (done.returncode, done.stderr) == (0, "")
    assert gvisor.is_version(done.stdout)
    report = user.diagnose()
    assert (report["ready"], report["probes"]["ptrace"]["outcome"]) == (True, "ok")
    assert report["facts"]["sysctls"]["kernel/yama/ptrace_scope"] == scope


def test_ptrace_scope_3_fails_with_yama_ptrace_scope(user: Login) -> None:
    SCOPE.write_text("3")
    done = user("usernsctl", "run", "--", "cat", "/proc/version")
    assert (done.returncode, done.stdout) == (125, "")
    assert CAUSE in done.stderr
    report = user.diagnose()
    assert blocking(report) == [CAUSE]
    # Check that namespaces and id maps still work, since they need no ptrace(2).
    assert user("usernsctl-exec", "-r", "--map-auto", "--", "true").returncode == 0
