"""Tests of `usernsctl run --in` a PID namespace, which only child processes enter."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import gvisor
import pytest
from conftest import Program
from processes import children_of, status_of

PATIENCE = 30


@pytest.fixture(params=["-rp", "-rpm", "-rpm --mount-proc"])
def pid_namespace(
    usernsctl: Program, request: pytest.FixtureRequest, runtime: Path
) -> Iterator[str]:
    usernsctl.check_output("ns", "create", "box", *request.param.split())
    yield "box"
    removed = usernsctl("ns", "remove", "box")
    assert removed.returncode == 0 or "there is no namespace" in removed.stderr


@pytest.mark.parametrize("status", [0, 7])
@pytest.mark.sampled
def test_command_runs_in_a_pid_namespace(
    usernsctl: Program, pid_namespace: str, status: int
) -> None:
    script = f"read word; echo $word; cat /proc/version; exit {status}"
    done = usernsctl("run", "--in", pid_namespace, "--", "sh", "-c", script, input="hello\n")
    assert (done.returncode, done.stderr) == (status, "")
    said, _, version = done.stdout.partition("\n")
    assert said == "hello"
    assert gvisor.is_version(version)


def test_failure_is_reported_once(usernsctl: Program, pid_namespace: str) -> None:
    done = usernsctl("run", "--in", pid_namespace, "--", "no-such-command")
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr.count("usernsctl: ") == 1


READY = 'trap "echo caught; exit 9" TERM; echo ready; while :; do sleep 0.1; done'


def run_shell(usernsctl: Program, pid_namespace: str, script: str) -> list[str | Path]:
    """Return the argv that runs a shell script in gVisor, in the PID namespace."""
    return [usernsctl.path, "run", "--in", pid_namespace, "--", "sh", "-c", script]


def start(usernsctl: Program, pid_namespace: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        run_shell(usernsctl, pid_namespace, READY),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.sampled(2)
def test_signals_reach_the_command(usernsctl: Program, pid_namespace: str) -> None:
    with start(usernsctl, pid_namespace) as process:
        process.terminate()
        assert process.wait(PATIENCE) == 9
        assert process.stdout.read() == "caught\n"


@pytest.mark.sampled(2)
def test_command_ends_when_the_namespace_is_removed(usernsctl: Program, pid_namespace: str) -> None:
    with start(usernsctl, pid_namespace) as process:
        (inside,) = children_of(process.pid)
        ours = os.readlink("/proc/self/ns/pid")
        assert os.readlink(f"/proc/{inside}/ns/pid") != ours
        assert usernsctl("ns", "remove", pid_namespace).returncode == 0
        assert process.wait(PATIENCE) == 128 + signal.SIGKILL
        assert process.stdout.read() == ""


@pytest.mark.sampled(1)
def test_unhandled_sigterm_kills_the_command(usernsctl: Program, pid_namespace: str) -> None:
    argv = run_shell(usernsctl, pid_namespace, "echo ready; exec sleep 1000")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        (inside,) = children_of(process.pid)
        assert status_of(inside)["NSpid"].split()[-1] != "1"
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


@pytest.mark.sampled(1)
def test_control_c_ends_the_command(usernsctl: Program, pid_namespace: str) -> None:
    argv = run_shell(usernsctl, pid_namespace, "echo ready; sleep 1000")
    ours, theirs = os.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", *argv], stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        told = b""
        try:
            while b"ready" not in told:
                told += os.read(ours, 1000)
            # runsc begins to forward signals only shortly after the command's start, so repeat the
            # key press.
            deadline = time.monotonic() + PATIENCE
            while process.poll() is None and time.monotonic() < deadline:
                os.write(ours, b"\x03")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
            assert process.poll() == 128 + signal.SIGINT
        finally:
            process.kill()
            os.close(ours)


@pytest.mark.sampled(1)
def test_command_ends_when_its_watcher_is_killed(usernsctl: Program, pid_namespace: str) -> None:
    with start(usernsctl, pid_namespace) as process:
        (inside,) = children_of(process.pid)
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert process.stdout.read() == ""
    # The killed process's child was reparented to pytest, a subreaper. The PID namespace persists
    # until pytest reaps this child.
    _, status = os.waitpid(inside, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
