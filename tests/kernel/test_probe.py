"""Tests of usernsctl-probe: its output, and the exit of its child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import children
from inside import PATIENCE
from processes import capture

import usernsctl as un

pytestmark = pytest.mark.each_user

PROBE = Path(un.__file__).with_name("_bin") / "usernsctl-probe"


@pytest.mark.parametrize("step", ["device /no/such/device", "cgroup /no/such/group"])
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
def test_the_probe_fails_if_it_can_not_write_its_result(step: str, redirection: str) -> None:
    script = f'exec "$0" {step} {redirection}'
    done = capture(["sh", "-c", script, PROBE])
    assert done.returncode == 125
    assert done.stderr.startswith("usernsctl-probe: standard output: ")


@pytest.mark.parametrize("program", ["/bin/true", "/no/such/program", __file__])
def test_the_profile_probe_does_not_run_the_program(tmp_path: Path, program: str) -> None:
    mark = tmp_path / "mark"
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\n: >{mark}\n")
    script.chmod(0o755)
    words = [PROBE, "profiles", program, script]
    done = capture(words, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert not mark.exists()
    # With AppArmor, the probe prints a line for each executable program, with its label and path.
    for line in done.stdout.splitlines():
        assert line.partition("\t")[2] in (program, str(script))


@pytest.mark.parametrize("step", ["sleep 1000", "exit 3"], ids=["late", "ended"])
@pytest.mark.parametrize("mount_proc", [True, False], ids=["own /proc", "outer /proc"])
def test_the_probe_kills_orphans_in_other_sessions(mount_proc: bool, step: str) -> None:
    """Check that no orphan survives, even if /proc belongs to an outer PID namespace."""
    orphan = f"setsid sh -c 'setsid sleep 1000 & sleep 1000' & sleep 0.2; {step}"
    # This script is PID 1, so waitpid(2) finds the processes that outlive usernsctl-probe.
    init = "import os, subprocess, sys; subprocess.run(sys.argv[1:]); os.waitpid(-1, os.WNOHANG)"
    words = ["unshare", "-Ur", "--pid", "--fork", *(["--mount-proc"] if mount_proc else [])]
    words += [sys.executable, "-I", "-c", init, str(PROBE), "--within", "700", "--"]
    done = capture([*words, "/bin/sh", "-c", orphan], timeout=PATIENCE)
    assert done.stdout == ("\x00124" if step == "sleep 1000" else "\x003")
    assert "ChildProcessError" in done.stderr


@pytest.mark.userns_requires("strace")
def test_the_profile_probe_ends_if_kill_fails() -> None:
    inject = ["-e", "trace=kill", "-e", "inject=kill:error=EPERM"]
    words = ["strace", "-qq", "-o", os.devnull, *inject, PROBE, "profiles", "/bin/true"]
    assert subprocess.run(words, timeout=PATIENCE).returncode == 0


@pytest.mark.userns_requires("strace")
@pytest.mark.parametrize("call", ["ptrace", "exit_group"])
def test_the_traced_child_ends_with_its_tracer(call: str) -> None:
    """Kill the tracer before or after PTRACE_TRACEME; check that its child exits."""
    before = children()
    inject = f"inject={call}:signal=SIGKILL"
    done = subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, PROBE, "ptrace"],
        timeout=PATIENCE,
    )
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    # The orphan is reparented to this process, a child subreaper.
    for pid in children().keys() - before.keys():
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 1)
