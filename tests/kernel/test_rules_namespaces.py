"""Tests of the kernel rules for PID namespaces, signals, ptrace(2), /proc and mounts."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from callers import unprivileged
from rules import CLONE_NEWPID, call, in_child, link, map_self, refused, unshare, waiting_child

pytestmark = pytest.mark.also_root

# Requests of ptrace(2), from linux/ptrace.h.
PTRACE_ATTACH = 16
PTRACE_DETACH = 17


@pytest.mark.userns
def test_a_pid_namespace_is_entered_by_children() -> None:
    """unshare(CLONE_NEWPID) does not move the caller; the caller's first child becomes PID 1."""
    before = os.getpid()
    unshare(CLONE_NEWPID)
    assert os.getpid() == before
    assert in_child(os.getpid) == 1
    # After PID 1 has exited, fork(2) fails with ENOMEM (pid_namespaces(7)).
    with refused(errno.ENOMEM):
        os.fork()


# Skip with ThreadSanitizer, which delays signals until the process calls certain functions of libc.
@pytest.mark.unsanitized
@pytest.mark.userns(pid=True, init=False)
def test_process_1_ignores_unhandled_signals_from_inside() -> None:
    """PID 1 ignores signals from inside if it has no handler for them, even SIGKILL.

    See pid_namespaces(7), "The namespace init process".
    """

    def attack() -> None:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP):
            os.kill(1, number)

    in_child(attack)
    assert os.getpid() == 1
    seen = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    in_child(attack)
    assert seen == [signal.SIGTERM]


@pytest.mark.userns(pid=True, init=False)
def test_process_1_adopts_orphans() -> None:
    """PID 1 adopts orphans (pid_namespaces(7), "Adoption of orphaned children")."""
    told, teller = os.pipe()

    def leave_a_child() -> None:
        mother = os.getpid()
        if os.fork() == 0:
            while os.getppid() == mother:
                time.sleep(0.001)
            os.write(teller, b"%d" % os.getppid())
            os._exit(0)

    in_child(leave_a_child)
    assert os.read(told, 9) == b"1"
    os.wait()


@pytest.mark.userns(pid=True)
def test_the_end_of_process_1_kills_its_namespace() -> None:
    """When PID 1 exits, the kernel kills all processes in its namespace (pid_namespaces(7))."""
    told, teller = os.pipe()

    def be_process_1() -> None:
        if os.fork() == 0:
            os.write(teller, b"+")
            signal.pause()
        os.read(told, 1)

    unshare(CLONE_NEWPID)
    in_child(be_process_1)
    os.close(teller)
    # The grandchild is the pipe's last writer, so end of file shows that it was killed.
    assert os.read(told, 1) == b""


@pytest.mark.userns
def test_processes_of_the_parent_namespace_can_not_be_read() -> None:
    """A process can't inspect a process in the parent user namespace, even with the same uid.

    See ptrace(2), "Ptrace access mode checking".
    """
    parent = os.getpid()

    def below() -> None:
        map_self()
        for name in ("ns/user", "root", "cwd", "exe"):
            with refused(errno.EACCES):
                os.readlink(f"/proc/{parent}/{name}")
        with refused(errno.EACCES):
            open(f"/proc/{parent}/environ").close()

    in_child(below)


@pytest.mark.userns
def test_processes_of_a_child_namespace_can_be_traced() -> None:
    """CAP_SYS_PTRACE in the user namespace of the traced process suffices (ptrace(2))."""
    with waiting_child(map_self) as pid:
        assert link("user", pid) != link("user")
        assert os.readlink(f"/proc/{pid}/exe") == os.readlink("/proc/self/exe")
        assert Path(f"/proc/{pid}/environ").read_bytes()
        call("ptrace", PTRACE_ATTACH, pid, 0, 0)
        assert os.WIFSTOPPED(os.waitpid(pid, 0)[1])
        call("ptrace", PTRACE_DETACH, pid, 0, 0)


@pytest.mark.userns
def test_processes_of_the_parent_namespace_can_not_be_traced() -> None:
    """ptrace(2) fails with EPERM without CAP_SYS_PTRACE in the traced process's namespace."""

    def below(pid: int) -> None:
        map_self()
        with refused(errno.EPERM):
            call("ptrace", PTRACE_ATTACH, pid, 0, 0)

    with waiting_child(lambda: None) as pid:
        in_child(lambda: below(pid))


# Skip with ThreadSanitizer, which delays signals until the process calls certain functions of libc.
@pytest.mark.unsanitized
@pytest.mark.userns
def test_the_same_user_can_be_signalled_from_inside() -> None:
    """kill(2) needs no capability if both processes have the same uid in the kernel.

    The uid may have different values in the two user namespaces.
    """

    def below() -> None:
        map_self(7)
        os.kill(os.getppid(), signal.SIGUSR1)

    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    in_child(below)
    assert seen == [signal.SIGUSR1]


@pytest.mark.userns
@unprivileged
def test_root_inside_can_not_signal_other_users_outside() -> None:
    """kill(2) fails with EPERM without CAP_KILL in the signalled process's user namespace."""
    with refused(errno.EPERM):
        os.kill(1, 0)


@pytest.mark.userns(map="auto")
def test_root_inside_can_signal_all_users_inside() -> None:
    """Root inside has CAP_KILL in its namespace, so it may signal all processes there (kill(2))."""
    ready, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresuid(1, 1, 1)
        os.write(ours, b"+")
        signal.pause()
        os._exit(0)
    os.read(ready, 1)
    os.kill(pid, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM


@pytest.mark.userns(map="auto")
def test_other_users_inside_can_not_signal_root() -> None:
    """Other users inside lack CAP_KILL, so kill(2) fails with EPERM for a process of root."""
    root = os.getpid()

    def attack() -> None:
        os.setresuid(1, 1, 1)
        with refused(errno.EPERM):
            os.kill(root, signal.SIGTERM)

    in_child(attack)


@pytest.mark.userns(mount=True)
def test_inherited_mounts_are_locked() -> None:
    """Inherited mounts can't be unmounted one by one, or made less restrictive.

    See mount_namespaces(7), "Restrictions on mount namespaces".
    """
    with refused(errno.EINVAL):
        call("umount2", b"/proc", 0)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    call("umount2", b"/mnt", 0)


@pytest.mark.userns(mount=True)
def test_mounts_inside_do_not_propagate_outside() -> None:
    """Shared mounts become slaves in a less privileged mount namespace (mount_namespaces(7))."""
    with open("/proc/self/mountinfo") as file:
        assert not any(" shared:" in line for line in file)
