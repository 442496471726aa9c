"""Processes and mounts in namespaces: PID namespaces, signals, ptrace(2), /proc, propagation."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from callers import unprivileged
from rules import CLONE_NEWPID, call, in_child, link, map_self, refused, unshare, waiting_child

# ptrace(2), linux/ptrace.h.
PTRACE_ATTACH = 16
PTRACE_DETACH = 17


@pytest.mark.userns
def test_a_pid_namespace_is_entered_by_children() -> None:
    """unshare(2), CLONE_NEWPID: the calling process is not moved; its first child is process 1."""
    before = os.getpid()
    unshare(CLONE_NEWPID)
    assert os.getpid() == before
    assert in_child(os.getpid) == 1
    # pid_namespaces(7), "The namespace init process": with that one ended, no other can be made.
    with refused(errno.ENOMEM):
        os.fork()


@pytest.mark.userns(pid=True, init=False)
def test_process_1_gets_no_signal_that_it_does_not_handle() -> None:
    """pid_namespaces(7), "The namespace init process": from inside not even SIGKILL."""

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
    """pid_namespaces(7), "Adoption of orphaned children"."""
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
def test_the_end_of_process_1_is_the_end_of_all() -> None:
    """pid_namespaces(7): the kernel terminates all of the processes in the namespace (SIGKILL)."""
    told, teller = os.pipe()

    def be_process_1() -> None:
        if os.fork() == 0:
            os.write(teller, b"+")
            signal.pause()
        os.read(told, 1)

    unshare(CLONE_NEWPID)
    in_child(be_process_1)
    os.close(teller)
    # The end of the pipe is the end of the grandchild, which had it open.
    assert os.read(told, 1) == b""


@pytest.mark.userns
def test_a_process_of_the_parent_namespace_may_not_be_looked_into() -> None:
    """ptrace(2), "Ptrace access mode checking": the same ids are not enough from below."""
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
def test_one_of_a_namespace_below_may() -> None:
    """The same rule: CAP_SYS_PTRACE in the user namespace of the target."""
    with waiting_child(map_self) as pid:
        assert link("user", pid) != link("user")
        assert os.readlink(f"/proc/{pid}/exe") == os.readlink("/proc/self/exe")
        assert Path(f"/proc/{pid}/environ").read_bytes()
        call("ptrace", PTRACE_ATTACH, pid, 0, 0)
        assert os.WIFSTOPPED(os.waitpid(pid, 0)[1])
        call("ptrace", PTRACE_DETACH, pid, 0, 0)


@pytest.mark.userns
def test_nobody_is_traced_from_below() -> None:
    """ptrace(2), EPERM: CAP_SYS_PTRACE is looked for in the namespace of the tracee."""

    def below(pid: int) -> None:
        map_self()
        with refused(errno.EPERM):
            call("ptrace", PTRACE_ATTACH, pid, 0, 0)

    with waiting_child(lambda: None) as pid:
        in_child(lambda: below(pid))


@pytest.mark.userns
def test_the_same_user_is_signalled_from_below() -> None:
    """kill(2): where the user ids are the same, no capability is asked for. They are those of the
    kernel, whatever each of the two sees."""

    def below() -> None:
        map_self(7)
        os.kill(os.getppid(), signal.SIGUSR1)

    seen: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    in_child(below)
    assert seen == [signal.SIGUSR1]


@pytest.mark.userns
@unprivileged
def test_root_inside_signals_nobody_else_outside() -> None:
    """kill(2), EPERM: CAP_KILL counts in the namespace of the target, as that of process 1."""
    with refused(errno.EPERM):
        os.kill(1, 0)


@pytest.mark.userns(map="auto")
def test_root_signals_everybody_inside() -> None:
    """kill(2): CAP_KILL in the user namespace of the target process."""
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
def test_and_nobody_else_does() -> None:
    """kill(2), EPERM: other ids, and no CAP_KILL."""
    root = os.getpid()

    def attack() -> None:
        os.setresuid(1, 1, 1)
        with refused(errno.EPERM):
            os.kill(root, signal.SIGTERM)

    in_child(attack)


@pytest.mark.userns(mount=True)
def test_inherited_mounts_are_locked() -> None:
    """mount_namespaces(7), "Restrictions on mount namespaces": neither unmounted one by one nor
    made less strict."""
    with refused(errno.EINVAL):
        call("umount2", b"/proc", 0)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    call("umount2", b"/mnt", 0)


@pytest.mark.userns(mount=True)
def test_what_is_mounted_inside_stays_inside() -> None:
    """mount_namespaces(7): in a less privileged one, mounts that were shared are slaves."""
    with open("/proc/self/mountinfo") as file:
        assert not any(" shared:" in line for line in file)
