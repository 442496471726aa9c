"""Tests of usernsctl-exec --fork, which waits for its child and forwards signals to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Program
from inside import PATIENCE, WAITER, read_ready, wait_for_end


@contextmanager
def waiting(prelude: Program, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start usernsctl-exec with WAITER; yield its process and WAITER's pid."""
    command: list[str | Path] = [prelude.path, *options, "--", *WAITER]
    # SIGTSTP does not stop an orphaned process group (setpgid(2)). So start a new process group. It
    # is not orphaned, because its leader's parent is in another group of the session.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            yield process, read_ready(process.stdout)
        finally:
            process.kill()


@pytest.mark.parametrize("options", [["-rf"], ["-rp"], ["-r", "--kill-child"]])
def test_death_by_a_signal_exits_with_128_plus_its_number(
    prelude: Program, options: list[str]
) -> None:
    # PID 1 of a PID namespace can't kill itself (pid_namespaces(7)). So a child of PID 1 kills
    # itself, and PID 1, which is `sh`, exits with the child's status.
    script = "sh -c 'kill -TERM $$'"
    assert prelude(*options, "--", "sh", "-c", f"{script}; exit $?").returncode == 143
    if "-rp" not in options:
        assert prelude(*options, "--", "sh", "-c", "kill -TERM $$").returncode == 143
        assert prelude(*options, "--", "sh", "-c", "kill -KILL $$").returncode == 137


@pytest.mark.parametrize("options", [["-rf"], ["-r", "--init"]])
@pytest.mark.parametrize(
    ("script", "status"),
    [
        *((f"kill -{number} $$", -number) for number in (1, 2, 9, 15, 34)),
        *((f"exit {status}", status) for status in (0, 7, 137, 143)),
    ],
)
@pytest.mark.sampled(5)
def test_reraise_signal_kills_the_parent_too(
    prelude: Program, options: list[str], script: str, status: int
) -> None:
    done = prelude(*options, "--reraise-signal", "--", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (status, "")


def test_process_1_can_not_reraise_signals(prelude: Program) -> None:
    inner = [str(prelude.path), "-rf", "--reraise-signal", "--", "sh", "-c", "kill -TERM $$"]
    assert prelude("-rp", "--", *inner).returncode == 143


@pytest.mark.parametrize("options", [["-rf"], ["-rp"]])
@pytest.mark.parametrize(
    "sig", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGWINCH]
)
def test_signals_are_forwarded(prelude: Program, options: list[str], sig: signal.Signals) -> None:
    with waiting(prelude, *options) as (process, _):
        process.send_signal(sig)
        assert process.wait(PATIENCE) == 100 + sig


@pytest.mark.parametrize("options", [["-rf"], ["-rp"], ["-rpf", "--kill-child=TERM"]])
def test_the_child_does_not_outlive_its_parent(prelude: Program, options: list[str]) -> None:
    with waiting(prelude, *options) as (process, _):
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert wait_for_end(process.stdout) == ""


def test_kill_child_sets_the_signal(prelude: Program) -> None:
    command: list[str | Path] = [prelude.path, "-r", "--kill-child=SIGUSR1", "--", *WAITER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        orphan = read_ready(process.stdout)
        process.kill()
        process.wait(PATIENCE)
        # This process is a child subreaper, so the kernel reparents orphans to it.
        _, status = os.waitpid(orphan, 0)
    assert os.waitstatus_to_exitcode(status) == 100 + signal.SIGUSR1


def test_kill_child_accepts_names_of_signals(prelude: Program) -> None:
    ask = (
        "import ctypes; told = ctypes.c_int(); "
        "ctypes.CDLL(None).prctl(2, ctypes.byref(told)); print(told.value)"  # PR_GET_PDEATHSIG is 2
    )
    # Omit SIGCLD, SIGIO and SIGIOT, which are aliases of SIGCHLD, SIGPOLL and SIGABRT.
    others = {"SIGCLD", "SIGIO", "SIGIOT"}
    named = {
        name.removeprefix("SIG"): f"{int(number)}\n"
        for name, number in signal.Signals.__members__.items()
        if not name.startswith("SIGRT") and name not in others
    }
    assert len(named) == 31
    told = {}
    for name in named:
        done = prelude("-r", f"--kill-child={name}", "--", sys.executable, "-S", "-c", ask)
        told[name] = done.stdout or done.stderr
    assert told == named


def wait_until_stopped(pid: int) -> None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


@pytest.mark.parametrize("sig", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stopped_child_stops_its_parent_until_sigcont(
    prelude: Program, sig: signal.Signals
) -> None:
    with waiting(prelude, "-rf") as (process, child):
        os.kill(child, sig)
        wait_until_stopped(process.pid)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 100 + signal.SIGTERM


def test_sigtstp_to_the_parent_stops_the_child(prelude: Program) -> None:
    with waiting(prelude, "-rf") as (process, _):
        process.send_signal(signal.SIGTSTP)
        wait_until_stopped(process.pid)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 100 + signal.SIGTERM


@pytest.mark.parametrize("options", ["-rf", "-r --init"])
def test_the_caller_may_ignore_sigchld(prelude: Program, options: str) -> None:
    """Check that the exit status is reported although waitpid(2) fails with ECHILD."""
    script = "import os, signal; print(signal.getsignal(signal.SIGCHLD).name); os._exit(7)"
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            [prelude.path, *options.split(), "--", sys.executable, "-uc", script],
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGCHLD, before)
    with process:
        try:
            chosen, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode == 7
    # The command inherits the caller's disposition of SIGCHLD.
    assert chosen == "SIG_IGN\n"


@pytest.mark.parametrize(("command", "status"), [("/no/such/tool", 127), ("/etc", 126)])
def test_a_failure_in_the_child_is_reported_once(
    prelude: Program, command: str, status: int
) -> None:
    done = prelude("-rp", "--", command)
    assert done.returncode == status
    assert done.stderr.count("usernsctl-exec: ") == 1


def test_the_command_is_the_first_process_of_its_namespace(prelude: Program) -> None:
    assert prelude("-rp", "--", "sh", "-c", "echo $$ $PPID").stdout == "1 0\n"
