"""Tests of usernsctl.Popen with failing system calls: errors are reported, and nothing leaks."""

from __future__ import annotations

import errno
import os
import sys

import pytest
from callers import as_root
from injecting import run_with

pytestmark = pytest.mark.userns_requires("strace")

# Program that starts a command once, and prints the result and what the start has leaked.
SCRIPT = """
import os, signal, sys
import usernsctl as un

def descriptors():
    found = {}
    for fd in range(64):
        try:
            found[fd] = os.fstat(fd)[:3]
        except OSError:
            pass
    return found

before = descriptors()
try:
    out = un.check_output(["/bin/cat", "/proc/self/uid_map"], text=True, **ARGUMENTS)
    told = ["ran", *out.split()]
except un.UsernsError as error:
    told = [type(error).__name__, error.step, str(error.errno)]
assert descriptors() == before
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    # Call write(2) only once, because a fault may select a write(2) by number.
    os.write(1, (" ".join(told) + "\\nnothing left").encode())
"""
WIDE = "idmap=un.IdMap.extents(['0:100000:9'], ['0:100000:9'])"


def attempt(*faults: str, arguments: str = "", path: str | None = None) -> list[str]:
    script = SCRIPT.replace("**ARGUMENTS", arguments)
    done = run_with(*faults, command=[sys.executable, "-c", script], path=path)
    assert done.stderr == ""
    *told, nothing_left = done.stdout.splitlines()
    assert nothing_left == "nothing left"
    return told


def test_a_start_waits_for_descriptors_in_flight() -> None:
    """Check that a start retries sendmsg(2) while too many descriptors are in flight (unix(7))."""
    assert attempt("sendmsg:error=ETOOMANYREFS:when=1..5")[0].startswith("ran ")


def test_descriptors_that_stay_in_flight_are_reported() -> None:
    script = (
        "import usernsctl as un\n"
        "try:\n"
        "    un.run(['true'])\n"
        "except un.NamespaceError as error:\n"
        "    print(error.step, error.cause)"
    )
    done = run_with("sendmsg:error=ETOOMANYREFS", command=[sys.executable, "-c", script])
    assert (done.stdout, done.stderr) == ("clone descriptor-limit\n", "")


@pytest.mark.parametrize(
    ("fault", "path", "arguments", "message"),
    [
        # Python itself calls openat(2) earlier, so restrict the fault to this path.
        ("openat:error=EACCES", "setgroups", "", "NamespaceError setgroups EACCES"),
        # Let the second write(2) fail: strace counts per process, and a child writes to setgroups
        # before it writes to a map.
        ("write:error=EPERM:when=2", None, "", "NamespaceError uid_map EPERM"),
        ("write:error=EINVAL:when=3", None, "", "NamespaceError gid_map EINVAL"),
        ("openat:error=EACCES:when=1+", "gid_map", "", "NamespaceError gid_map EACCES"),
        ("openat:error=EACCES", "/proc/self/gid_map", WIDE, "PlanError facts EACCES"),
        ("mount:error=EPERM", None, "mount=True", "NamespaceError propagation EPERM"),
        ("setresgid:error=EPERM", None, "", "NamespaceError setresgid EPERM"),
        ("setresuid:error=EAGAIN", None, "", "NamespaceError setresuid EAGAIN"),
        ("chdir:error=EACCES", None, "cwd='/'", "CommandNotExecutableError chdir EACCES"),
        ("setsid:error=EPERM", None, "start_new_session=True", "* session EPERM"),
        # A child's first execve(2) starts usernsctl-child, and the second starts the command.
        ("execve:error=ENOMEM:when=2", None, "", "CommandError exec ENOMEM"),
        ("execve:error=EACCES:when=2", None, "", "CommandNotExecutableError exec EACCES"),
        ("unshare:error=ENOSPC", None, "", "NamespaceError unshare ENOSPC"),
        ("unshare:error=EAGAIN", None, "pid=True", "NamespaceError unshare EAGAIN"),
        ("pidfd_open:error=ENOSYS", None, "pdeathsig=15", "CommandError pdeathsig ENOSYS"),
    ],
)
def test_faults_raise(fault: str, path: str | None, arguments: str, message: str) -> None:
    kind, step, name = message.split()
    (line,) = attempt(fault, arguments=arguments, path=path)
    got_kind, *got = line.split()
    assert got == [step, str(getattr(errno, name))]
    assert kind in ("*", got_kind)


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EINVAL", "E2BIG"])
@pytest.mark.parametrize(
    "arguments", ["", "pid=True", "pid=True, init=True", "mount=True, net=True"]
)
@pytest.mark.sampled
def test_clone_replaces_a_missing_clone3(error: str, arguments: str) -> None:
    assert attempt(f"clone3:error={error}", arguments=arguments) == [f"ran 0 {os.geteuid()} 1"]


@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_time_namespaces_do_not_need_clone3(error: str) -> None:
    assert attempt(f"clone3:error={error}", arguments="time=True") == [f"ran 0 {os.geteuid()} 1"]


@pytest.mark.parametrize("call", ["socketpair", "sendmsg", "recvmsg", "setsockopt"])
@pytest.mark.parametrize("when", range(1, 6))
@pytest.mark.parametrize("arguments", ["", "pid=True", "pid=True, init=True"])
@pytest.mark.sampled(17)
def test_faults_during_a_start_leave_nothing(call: str, when: int, arguments: str) -> None:
    """Check that a fault during a start raises an exception or has no effect, and leaks nothing."""
    (told,) = attempt(f"{call}:error=ENOMEM:when={when}", arguments=arguments)
    assert told.split()[0] in ("ran", "NamespaceError", "CommandError", "PlanError")


@pytest.mark.parametrize("arguments", ["", "pid=True", "mount=True, pid=True"])
def test_spawn_runs_nothing_if_the_child_can_not_report(arguments: str) -> None:
    """Check that the command does not start if the child can't report to its parent.

    Otherwise, no process would wait for the command.
    """
    script = (
        "import usernsctl as un\n"
        "try:\n"
        f"    un.run(['/bin/sh', '-c', 'echo it ran >&2'], {arguments})\n"
        "except un.NamespaceError as error:\n"
        "    print(error)\n"
    )
    faults = ("recvmsg:error=EMFILE:when=1", "pidfd_send_signal:delay_enter=300000")
    done = run_with(*faults, command=[sys.executable, "-c", script])
    assert done.stderr == ""
    assert "can't duplicate or send a descriptor for usernsctl-child" in done.stdout


@pytest.mark.parametrize("error", ["ENOSPC", "EAGAIN", "ENOMEM"])
def test_other_refusals_of_clone3_are_final(error: str) -> None:
    (told,) = attempt(f"clone3:error={error}")
    assert told == f"NamespaceError clone {getattr(errno, error)}"


def test_spawn_closes_all_descriptors_without_close_range() -> None:
    script = (
        "import os, usernsctl\n"
        "os.dup2(0, 900)\n"
        "print(usernsctl.check_output(['ls', '/proc/self/fd'], text=True))\n"
    )
    done = run_with("close_range:error=ENOSYS", command=[sys.executable, "-c", script])
    assert done.stderr == ""
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_process_1_closes_all_descriptors_without_close_range() -> None:
    script = (
        "import subprocess, usernsctl\n"
        "with usernsctl.Popen(['sh', '-c', 'exec >&-; read line'], stdin=-1, stdout=-1,\n"
        "                     pid=True, init=True) as process:\n"
        "    print(process.stdout.read())\n"
    )
    done = run_with("close_range:error=ENOSYS", command=[sys.executable, "-c", script])
    assert (done.stdout, done.stderr) == ("b''\n", "")


@as_root
@pytest.mark.parametrize(
    ("fault", "path", "arguments", "message"),
    [
        ("openat:error=EACCES:when=1", "uid_map", WIDE, "NamespaceError uid_map EACCES"),
        ("openat:error=EMFILE", "ns/user", WIDE, "PlanError facts EMFILE"),
        ("setns:error=EPERM", None, WIDE, "NamespaceError setns EPERM"),
        ("setgroups:error=EPERM", None, WIDE, "NamespaceError setgroups EPERM"),
        ("unshare:error=ENOSPC", None, f"{WIDE}, mount=True", "NamespaceError unshare ENOSPC"),
        ("pidfd_open:error=EMFILE", None, f"{WIDE}, pid=True", "NamespaceError clone EMFILE"),
    ],
)
def test_faults_of_the_parent_writer_raise(
    fault: str, path: str | None, arguments: str, message: str
) -> None:
    kind, step, name = message.split()
    assert attempt(fault, arguments=arguments, path=path) == [
        f"{kind} {step} {getattr(errno, name)}"
    ]


@as_root
@pytest.mark.parametrize("arguments", [WIDE, f"{WIDE}, pid=True"])
def test_clone_replaces_clone3_for_the_parent_writer(arguments: str) -> None:
    assert attempt("clone3:error=ENOSYS", arguments=arguments) == ["ran 0 100000 9"]
