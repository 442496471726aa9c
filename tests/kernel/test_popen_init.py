"""Tests of ``init=True``, with which usernsctl-init is PID 1 of a new PID namespace."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import prctl
import pytest
from conftest import children, open_descriptors
from inside import ORPHAN, PATIENCE, WAITER, read_ready, wait_for_end
from processes import check_output, children_of, status_of, wait_until

import usernsctl as un

INIT: dict[str, Any] = {"pid": True, "init": True}
PIDS = ["sh", "-c", "echo $$ $PPID"]


@contextmanager
def waiting(*command: str, **arguments: Any) -> Iterator[un.Popen[str]]:
    """Start a command; yield its process after its first line of output."""
    started = un.Popen(command, stdout=un.PIPE, text=True, **INIT, **arguments)
    with started as process:
        try:
            process.stdout.readline()
            yield process
        finally:
            process.kill()


def test_the_command_is_a_child_of_process_1() -> None:
    assert un.check_output(PIDS, text=True, **INIT) == "2 1\n"


def test_init_works_with_other_and_with_kept_namespaces() -> None:
    assert un.check_output(PIDS, mount=True, net=True, time=True, text=True, **INIT) == "2 1\n"
    with un.Namespace.create(mount=True) as ns:
        assert ns.check_output(PIDS, text=True, **INIT) == "2 1\n"
        child = ns.spawn(["sh", "-c", "exit $(( $$ + 6 ))"], **INIT)
        os.close(child.pidfd)
        assert os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]) == 8


def test_init_without_pid_raises() -> None:
    for call in (un.run, un.Popen, un.spawn):
        with pytest.raises(ValueError, match=r"init=True .* pid=True"):
            call(["true"], init=True)  # type: ignore[operator]


def test_streams_of_the_command_pass_through_init() -> None:
    done = un.run(["sh", "-c", "cat; echo x >&2"], input=b"hello", capture_output=True, **INIT)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello", b"x\n")


def test_a_pipe_reaches_end_of_file_when_the_command_closes_it() -> None:
    script = "echo ready; exec >&-; read line"
    with un.Popen(
        ["sh", "-c", script], stdin=un.PIPE, stdout=un.PIPE, text=True, **INIT
    ) as process:
        assert wait_for_end(process.stdout) == "ready\n"
        assert process.poll() is None
        assert process.communicate("\n", timeout=PATIENCE)
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, 40])
def test_an_unhandled_signal_kills_the_command(number: int) -> None:
    with waiting("sh", "-c", "echo ready; exec sleep 1000") as process:
        process.send_signal(number)
        assert process.wait(PATIENCE) == 128 + number


def test_a_signal_during_the_start_is_not_lost() -> None:
    for _ in range(50):
        with un.Popen(["sleep", "1000"], **INIT) as process:
            process.terminate()
            assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_a_command_can_handle_signals() -> None:
    with un.Popen(WAITER, stdout=un.PIPE, text=True, **INIT) as process:
        assert read_ready(process.stdout) == 2
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE) == 100 + signal.SIGUSR1


def test_kill_ends_all_processes_of_the_namespace() -> None:
    with waiting("sh", "-c", "setsid sleep 1000 & echo ready; wait") as process:
        process.kill()
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert wait_for_end(process.stdout) == ""


def test_the_end_of_the_command_kills_its_descendants() -> None:
    done = un.run(["sh", "-c", "setsid sleep 1000 & exit 3"], stdout=un.PIPE, **INIT)
    assert done.returncode == 3


def test_a_stop_is_passed_on() -> None:
    # In an orphaned process group, the kernel discards SIGTSTP (setpgid(2)). So start a new process
    # group. It is not orphaned, because its leader's parent is in another group of the session.
    with waiting("sh", "-c", "echo ready; exec sleep 1000", process_group=0) as process:
        (command,) = children_of(process.pid)
        process.send_signal(signal.SIGTSTP)
        wait_until(lambda: status_of(command)["State"].startswith("T"), PATIENCE)
        process.send_signal(signal.SIGCONT)
        process.terminate()
        assert process.wait(PATIENCE) == 128 + signal.SIGTERM


def test_orphans_are_reaped() -> None:
    script = f"mount -t proc proc /proc; {ORPHAN}"
    assert un.check_output(["sh", "-c", script], mount=True, text=True, **INIT) == "gone\n"


@pytest.mark.parametrize(
    ("arguments", "kind", "step", "number"),
    [
        ({"args": ["no-such-tool"]}, FileNotFoundError, "lookup", errno.ENOENT),
        ({"args": ["/etc"]}, PermissionError, "exec", errno.EACCES),
        ({"cwd": "/no/such/dir"}, FileNotFoundError, "chdir", errno.ENOENT),
        ({"user": 12345}, un.NamespaceError, "setresuid", errno.EINVAL),
    ],
)
def test_init_reports_the_failure_of_the_command(
    arguments: dict[str, Any], kind: type[un.UsernsError], step: str, number: int
) -> None:
    with pytest.raises(kind) as caught:
        un.run(**({"args": ["true"]} | arguments), **INIT)
    assert (caught.value.step, caught.value.errno) == (step, number)


def test_successful_and_failed_starts_leave_nothing() -> None:
    descriptors, before = open_descriptors(), children()
    for index in range(100):
        if index % 2:
            assert un.run(["cat"], input=b"x", stdout=un.PIPE, **INIT).stdout == b"x"
        else:
            with pytest.raises(un.UsernsError):
                un.run(["no-such-tool"], stdout=un.PIPE, **INIT)
    assert open_descriptors() == descriptors
    assert children() == before


# Program that starts a command with pdeathsig, prints the pid of the command, and exits.
SHORT_LIVED = """
import os, signal
import usernsctl
process = usernsctl.Popen(["sleep", "1000"], pdeathsig=signal.SIGTERM, pid=True, init=True)
print(process.pid, flush=True)
os._exit(0)
"""


def test_init_passes_on_the_parent_death_signal() -> None:
    prctl.set_child_subreaper(True)
    command = [sys.executable, "-c", SHORT_LIVED]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    _, status = os.waitpid(int(done.stdout), 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def test_the_caller_may_ignore_sigchld() -> None:
    """Check that a command inherits an ignored SIGCHLD, and is still reaped by usernsctl-init."""
    command = [
        sys.executable,
        "-c",
        "import signal, time; print(signal.getsignal(signal.SIGCHLD).name); time.sleep(0.05)",
    ]
    script = (
        "import signal, os, sys, usernsctl as un\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "child = un.spawn(sys.argv[1:], pid=True, init=True)\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_DFL)\n"
        "os._exit(os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1]))\n"
    )
    assert check_output([sys.executable, "-c", script, *command], timeout=PATIENCE) == "SIG_IGN\n"


def test_the_command_inherits_the_signal_mask() -> None:
    script = "import signal; print(*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, [])))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        shown = un.check_output([sys.executable, "-c", script], text=True, **INIT)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert shown.split() == [str(int(signal.SIGUSR2))]


def test_create_subprocess_exec_accepts_init() -> None:
    async def main() -> None:
        process = await un.create_subprocess_exec(*PIDS, stdout=un.PIPE, **INIT)
        assert (await process.communicate())[0] == b"2 1\n"
        process = await un.create_subprocess_exec("sleep", "1000", **INIT)
        process.terminate()
        assert await process.wait() == 128 + signal.SIGTERM

    asyncio.run(main())


@pytest.mark.also_root
def test_processes_inside_can_not_read_process_1() -> None:
    script = "ls /proc/1/fd; cat /proc/1/environ; readlink -v /proc/1/cwd; : <>/proc/1/mem"
    done = un.run(
        ["sh", "-c", f"mount -t proc proc /proc; {script}"],
        mount=True,
        env={"SECRET": "x", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        **INIT,
    )
    # All four commands fail, except ls(1) if the caller is root: /proc/1/fd then appears empty.
    refused = done.stderr.lower().count("permission denied")
    assert refused == 3 + (os.geteuid() != 0), done.stderr
    assert done.stdout == ""
