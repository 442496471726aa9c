"""Tests of usernsctl-exec with failing system calls.

The error message must name the failed step, and the command must not run.
"""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from callers import as_root, unprivileged
from conftest import Program
from injecting import run_with

pytestmark = pytest.mark.userns_requires("strace")

WIDE = ["--map-users=0:100000:9", "--map-groups=0:100000:9"]


@dataclass(frozen=True)
class Fault:
    """A failing system call, and the step that the error message must name."""

    call: str
    error: str
    step: str
    options: tuple[str, ...] = ("-r",)
    when: str = ""
    path: str | None = None
    status: int = 125

    def __str__(self) -> str:
        return f"{self.call}{self.when} {self.path or ''} {self.error} in {self.options}"


FAULTS = [
    Fault("uname", "EFAULT", "facts", options=(*WIDE,)),
    Fault("capget", "EINVAL", "facts"),
    # usernsctl-exec is not dumpable when it makes this call, so an unprivileged strace can't read
    # the call's path. Select the call by its number.
    Fault("openat", "ENOENT", "facts", when="1"),
    Fault("openat", "EACCES", "facts", options=(*WIDE,), path="/proc/self/uid_map"),
    Fault("openat", "ENOENT", "facts", options=(*WIDE,), path="/proc/self/gid_map"),
    # Errors that seccomp filters, sysctls, limits or old kernels cause.
    *(
        Fault("unshare", error, "unshare", options=options)
        for error in ("EPERM", "ENOSPC", "EINVAL", "ENOMEM", "EUSERS", "ENOSYS")
        for options in (("-r",), ("-rmn",), ("-U",))
    ),
    *(
        Fault("openat", error, "setgroups", path="setgroups")
        for error in ("EACCES", "ENOENT", "EROFS")
    ),
    # If opening a map fails, root opens it again as a dumpable process. The fault affects both
    # calls.
    Fault("openat", "EACCES", "uid_map", path="uid_map"),
    Fault("openat", "EROFS", "gid_map", path="gid_map"),
    Fault("openat", "EMFILE", "gid_map", path="gid_map"),
    # The first write(2) goes to setgroups, the second to uid_map, and the third to gid_map.
    Fault("write", "EPERM", "setgroups", when="1"),
    Fault("write", "EPERM", "uid_map", when="2"),
    Fault("write", "EINVAL", "uid_map", when="2"),
    Fault("write", "EPERM", "gid_map", when="3"),
    Fault("mount", "EPERM", "propagation", options=("-rm",)),
    Fault("mount", "EPERM", "mount", options=("-rp", "--mount-proc"), when="2"),
    Fault("mount", "EPERM", "mount", options=("-rp", "--mount-proc"), when="3"),
    Fault("mount", "EBUSY", "mount", options=("-rp", "--mount-proc"), when="3"),
    Fault("chroot", "EPERM", "chroot", options=("-r", "--root=/")),
    Fault("chdir", "EACCES", "chdir", options=("-r", "--wd=/")),
    # Set ids by options: usernsctl-exec calls setresgid(2) and setresuid(2) only to change ids.
    Fault("setresgid", "EPERM", "setresgid", options=("-r", "--setgid=0")),
    Fault("setresuid", "EAGAIN", "setresuid", options=("-r", "--setuid=0")),
    Fault("capset", "EPERM", "capabilities", options=("-r", "--keep-caps")),
    Fault("fcntl", "EBADF", "descriptors", options=("-r", "--preserve-fd=0")),
    Fault("pidfd_open", "ENOSYS", "pdeathsig", options=("-rf",)),
    Fault("execve", "EACCES", "exec", status=126),
    Fault("execve", "ENOEXEC", "exec", status=126),
    Fault("execve", "ENOMEM", "exec", status=126),
    Fault("execve", "E2BIG", "exec", status=126),
    Fault("execve", "ETXTBSY", "exec", options=("-rf",), status=126),
]
FAULTS_AS_ROOT = [
    Fault("setns", "EPERM", "setns", options=(*WIDE,)),
    Fault("setns", "EINVAL", "setns", options=(*WIDE,)),
    Fault("unshare", "EPERM", "unshare", options=(*WIDE, "-m")),
    Fault("openat", "EACCES", "uid_map", options=(*WIDE,), path="uid_map", when="1"),
    Fault("write", "EPERM", "uid_map", options=(*WIDE,), when="1"),
    Fault("write", "EPERM", "gid_map", options=(*WIDE,), when="2"),
    Fault("setgroups", "EPERM", "setgroups", options=(*WIDE,)),
    Fault("openat", "EMFILE", "facts", options=(*WIDE,), path="ns/user"),
]


def check(prelude: Program, fault: Fault) -> None:
    when = f":when={fault.when}" if fault.when else ""
    done = run_with(
        f"{fault.call}:error={fault.error}{when}",
        command=[prelude.path, *fault.options, "--", "/bin/echo", "ran"],
        path=fault.path,
    )
    assert done.stdout == ""
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"usernsctl-exec: {fault.step}: ")
    assert os.strerror(getattr(errno, fault.error)) in first
    assert all(line.startswith(("  why: ", "  remedy:", "    ")) for line in rest)
    assert done.returncode == fault.status


@unprivileged
@pytest.mark.userns_requires("subid")
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_children_are_killed_without_pidfd_send_signal(prelude: Program, error: str) -> None:
    """Check that the child is killed even if pidfd_send_signal(2) fails.

    A traced newuidmap fails, so usernsctl-exec has to kill its child.
    """
    done = run_with(
        f"pidfd_send_signal:error={error}",
        command=[prelude.path, "--map-auto", "--", "/bin/echo", "ran"],
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "usernsctl-exec: helper: " in done.stderr


@unprivileged
@pytest.mark.userns_requires("subid")
def test_a_helper_without_exit_status_is_a_failure(prelude: Program) -> None:
    """Check that a helper counts as failed if waitid(2) and ioctl(2) can't get its exit status."""
    done = run_with(
        "waitid:error=ECHILD",
        "ioctl:error=ENOTTY",
        command=[prelude.path, "--map-auto", "--", "/bin/echo", "ran"],
    )
    assert (done.returncode, done.stdout) == (125, "")
    cause = "helper-status-lost"
    assert f"[{cause}]" in done.stderr


@pytest.mark.also_root
@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.sampled(16)
def test_faults_are_reported_with_their_step(prelude: Program, fault: Fault) -> None:
    check(prelude, fault)


@as_root
@pytest.mark.parametrize("fault", FAULTS_AS_ROOT, ids=str)
def test_faults_of_the_parent_writer_are_reported_with_their_step(
    prelude: Program, fault: Fault
) -> None:
    check(prelude, fault)


def test_a_short_write_of_a_map_fails(prelude: Program) -> None:
    done = run_with("write:retval=3:when=2", command=[prelude.path, "-r", "--", "/bin/echo", "ran"])
    assert (done.returncode, done.stdout) == (125, "")
    assert "uid_map: /proc/PID/uid_map: Input/output error" in done.stderr


def test_a_failed_fork_is_reported(prelude: Program) -> None:
    command: list[str | Path] = [prelude.path, "-rf", "--", "/bin/echo", "ran"]
    done = run_with(
        "clone:error=EAGAIN", "clone3:error=EAGAIN", "fork:error=EAGAIN", command=command
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "clone: fork: Resource temporarily unavailable" in done.stderr


def test_descriptors_are_closed_without_close_range(prelude: Program) -> None:
    first, second = os.pipe()
    high = os.dup2(first, 900)
    try:
        done = run_with(
            "close_range:error=ENOSYS",
            command=[prelude.path, "-r", f"--preserve-fd={second}", "--", "ls", "/proc/self/fd"],
            pass_fds=(first, second, high),
        )
    finally:
        for fd in (first, second, high):
            os.close(fd)
    assert done.stderr == ""
    assert set(done.stdout.split()) == {"0", "1", "2", "3", str(second)}


LISTING = """
#include <fcntl.h>
#include <stdio.h>
int main(void)
{
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("%d\\n", fd);
    return 0;
}
"""


def test_descriptors_are_not_read_from_proc_of_the_new_root(
    prelude: Program, tmp_path: Path
) -> None:
    """Check that without close_range(2), descriptors are listed in the original /proc.

    The /proc of the new root filesystem is not trusted.
    """
    (tmp_path / "proc" / "self" / "fd").mkdir(parents=True)
    (tmp_path / "list.c").write_text(LISTING)
    build = ["cc", "-static", tmp_path / "list.c", "-o", tmp_path / "list"]
    subprocess.run(build, check=True)
    secret = os.open("/", os.O_RDONLY)
    high = os.dup2(secret, 900)
    try:
        done = run_with(
            "close_range:error=ENOSYS",
            command=[prelude.path, "-rm", f"--root={tmp_path}", "--", "/list"],
            pass_fds=(secret, high),
        )
    finally:
        os.close(secret)
        os.close(high)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "1", "2"]


@as_root
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "EINVAL"])
def test_clone_replaces_a_missing_clone3(prelude: Program, error: str) -> None:
    done = run_with(
        f"clone3:error={error}",
        command=[prelude.path, *WIDE, "--", "cat", "/proc/self/uid_map"],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["0", "100000", "9"]


@as_root
def test_a_failed_clone_is_reported(prelude: Program) -> None:
    done = run_with(
        "clone3:error=ENOSYS",
        "clone:error=EPERM",
        command=[prelude.path, *WIDE, "--", "/bin/echo", "ran"],
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert "clone: Operation not permitted" in done.stderr


@pytest.mark.parametrize("error", ["EPERM", "ENOMEM"])
def test_a_parent_that_can_not_be_polled_counts_as_alive(prelude: Program, error: str) -> None:
    done = run_with(f"poll:error={error}", command=[prelude.path, "-rf", "--", "/bin/echo", "ran"])
    assert (done.returncode, done.stdout) == (125, "")
    assert f"pdeathsig: poll: {os.strerror(getattr(errno, error))}" in done.stderr


def test_an_interrupted_poll_of_the_parent_is_repeated(prelude: Program) -> None:
    done = run_with(
        "poll:error=EINTR:when=1..3", command=[prelude.path, "-rf", "--", "/bin/echo", "ran"]
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


@unprivileged
@pytest.mark.userns_requires("subid")
@pytest.mark.parametrize("error", ["EPERM", "ENOSYS", "EIO"])
def test_a_helper_on_an_unreadable_mount_is_run(prelude: Program, error: str) -> None:
    # A traced process gains no privileges at execve(2), so newuidmap starts but fails.
    command = [prelude.path, "-r", "--map-auto", "--", "/bin/echo", "ran"]
    done = run_with(f"statfs:error={error}", f"statfs64:error={error}", command=command)
    assert (done.returncode, done.stdout) == (125, "")
    assert "not installed" not in done.stderr
    assert "[helper-failed]" in done.stderr


def test_a_parent_that_is_already_dead_is_noticed(prelude: Program) -> None:
    # Let poll(2) report the parent's pidfd as readable, as if the parent had exited.
    done = run_with("poll:retval=1", command=[prelude.path, "-rf", "--", "/bin/echo", "ran"])
    assert (done.returncode, done.stdout) == (125, "")
    assert "pdeathsig: the parent has ended: No such process" in done.stderr
