"""Tests of usernsctl-exec --init, with which usernsctl's supervisor is PID 1 of a PID namespace.

test_supervisor.py tests the behaviour that all supervisors have in common.
"""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import supervisors
from conftest import Program
from inside import PATIENCE, WAITER, read_ready, wait_for_end
from processes import children_of, status_of

INIT = ["-r", "--init", "--"]


@contextmanager
def running(
    prelude: Program, *command: str, options: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Start usernsctl-exec --init with a command; yield its process."""
    words: list[str | Path] = [prelude.path, *options, *INIT, *command]
    # Start a new process group, whose leader's parent is in another group of the session. Such a
    # group is not orphaned; SIGTSTP does not stop an orphaned group (setpgid(2)).
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        try:
            yield process
        finally:
            process.kill()


def first_process(supervisor: int) -> int:
    (pid,) = children_of(supervisor)
    return pid


def test_the_command_is_a_child_of_process_1(prelude: Program) -> None:
    assert prelude(*INIT, "sh", "-c", "echo $$ $PPID").stdout == "2 1\n"


@pytest.mark.parametrize("status", [0, 7, 255])
def test_init_exits_with_the_status_of_the_command(prelude: Program, status: int) -> None:
    assert prelude(*INIT, "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 40])
def test_init_exits_with_128_plus_the_signal_of_the_command(prelude: Program, number: int) -> None:
    assert prelude(*INIT, "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


@pytest.mark.parametrize(("command", "status"), [("/no/such/tool", 127), ("/etc", 126)])
def test_a_command_that_does_not_start_is_reported_once(
    prelude: Program, command: str, status: int
) -> None:
    done = prelude(*INIT, command)
    assert done.returncode == status
    assert done.stderr.count("usernsctl-exec: ") == 1


ENDING = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, 34, 40]


@pytest.mark.parametrize("number", ENDING)
def test_an_unhandled_signal_kills_the_command(prelude: Program, number: int) -> None:
    with running(prelude, "sh", "-c", "ulimit -c 0; echo ready; exec sleep 1000") as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number


def test_without_init_sigterm_is_ignored(prelude: Program) -> None:
    """Check that without --init, PID 1 ignores SIGTERM (pid_namespaces(7)), as the manual warns."""
    words = [prelude.path, "-rp", "--", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            process.stdout.readline()
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.2)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_process_1_forwards_its_own_signals(prelude: Program, number: int) -> None:
    with running(prelude, *WAITER) as process:
        read_ready(process.stdout)
        os.kill(first_process(process.pid), number)
        assert process.wait(PATIENCE) == 100 + number


def test_process_1_forwards_signals_from_inside(prelude: Program) -> None:
    script = "trap 'echo caught; exit 9' TERM; kill -TERM 1; while :; do sleep 0.05; done"
    done = prelude(*INIT, "sh", "-c", script, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (9, "caught\n")


def test_sigterm_at_any_moment_ends_usernsctl_exec(prelude: Program) -> None:
    """Check that SIGTERM ends usernsctl-exec, whether it is sent before or after the fork."""
    chance = random.Random(0)
    ends = set()
    for _ in range(60):
        output, held = os.pipe()
        process = subprocess.Popen([prelude.path, *INIT, "sleep", "1000"], stdout=held)
        os.close(held)
        select.select([output], [], [], chance.uniform(0, 0.008))
        process.send_signal(signal.SIGTERM)
        try:
            ends.add(process.wait(PATIENCE))
        finally:
            process.kill()
            process.wait()
        assert select.select([output], [], [], PATIENCE)[0]
        os.close(output)
    assert ends <= {-signal.SIGTERM, 128 + signal.SIGTERM}


ORPHANS = f"""
import os, sys, time
for number in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            while os.getppid() != 1:
                time.sleep(0.001)
        os._exit(0)
for number in range(20):
    os.wait()
deadline = time.monotonic() + {PATIENCE}
while left := set(filter(str.isdecimal, os.listdir("/proc"))) - {{"1", str(os.getpid())}}:
    if time.monotonic() > deadline:
        sys.exit("left: " + " ".join(left))
    time.sleep(0.01)
"""


# Skip with ThreadSanitizer, which adds a thread: os.fork() would warn that the process is
# multithreaded.
@pytest.mark.unsanitized
def test_process_1_reaps_orphans(prelude: Program) -> None:
    prelude.check_output("--mount-proc", *INIT, sys.executable, "-c", ORPHANS, timeout=2 * PATIENCE)


def test_the_end_of_the_command_kills_its_descendants(prelude: Program) -> None:
    with running(prelude, "sh", "-c", "setsid sleep 1000 & echo ready; read line") as process:
        assert process.wait(PATIENCE) == 1
        assert process.stdout.readline() == "ready\n"
        assert wait_for_end(process.stdout) == ""


@pytest.mark.parametrize("victim", ["usernsctl-exec", "process 1"])
def test_the_command_does_not_outlive_its_supervisors(prelude: Program, victim: str) -> None:
    with running(prelude, *WAITER) as process:
        read_ready(process.stdout)
        if victim == "usernsctl-exec":
            process.kill()
            assert process.wait(PATIENCE) == -signal.SIGKILL
        else:
            os.kill(first_process(process.pid), signal.SIGKILL)
            assert process.wait(PATIENCE) == 128 + signal.SIGKILL
        assert wait_for_end(process.stdout) == ""


def test_kill_child_with_init_signals_the_command(
    prelude: Program,
) -> None:
    """Kill usernsctl-exec; check that PID 1 then signals the command and waits for it."""
    script = "trap 'echo caught; exit' USR1; echo ready; while :; do sleep 0.05; done"
    with running(prelude, "sh", "-c", script, options=("--kill-child=USR1",)) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait(PATIENCE)
        assert wait_for_end(process.stdout) == "caught\n"


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_a_stopped_command_stops_usernsctl_exec_until_sigcont(
    prelude: Program, number: int
) -> None:
    with running(prelude, *WAITER) as process:
        read_ready(process.stdout)
        payload = supervisors.payload_of(process.pid)
        os.kill(payload, number)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 100 + signal.SIGTERM


def test_sigtstp_to_usernsctl_exec_stops_the_command(prelude: Program) -> None:
    with running(prelude, *WAITER) as process:
        read_ready(process.stdout)
        process.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert status_of(supervisors.payload_of(process.pid))["State"].startswith("T")
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 100 + signal.SIGTERM


@pytest.mark.also_root
def test_process_1_closes_the_descriptors_of_the_command(prelude: Program) -> None:
    """Check that PID 1 keeps no descriptors that would hold a pipe of the command open."""
    output, passed = os.pipe()
    words = [prelude.path, f"--preserve-fd={passed}", *INIT, *WAITER]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[passed]
    ) as process:
        os.close(passed)
        os.close(output)
        try:
            read_ready(process.stdout)
            first = first_process(process.pid)
            # Root outside can read PID 1's descriptors, but the command can't.
            if os.geteuid() == 0:
                links = [
                    os.readlink(f"/proc/{first}/fd/{n}") for n in os.listdir(f"/proc/{first}/fd")
                ]
                assert len(links) == 1, links
            process.send_signal(signal.SIGUSR1)
            assert process.wait(PATIENCE) == 100 + signal.SIGUSR1
        finally:
            process.kill()


@pytest.mark.parametrize("closed", [(0,), (0, 1), (0, 1, 2)])
def test_init_works_with_closed_standard_streams(prelude: Program, closed: tuple[int, ...]) -> None:
    closes = "; ".join(f"exec {fd}>&-" for fd in closed)
    words = ["sh", "-c", f'{closes}; exec "$@"', "sh", str(prelude.path), *INIT]
    done = subprocess.run([*words, "sh", "-c", "exit 5"], timeout=PATIENCE)
    assert done.returncode == 5
