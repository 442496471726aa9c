"""Making, joining and ending namespaces: nesting, limits, setns(2), signals, ptrace(2), /proc."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from rules import (
    CLONE_NEWPID,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    all_capabilities,
    call,
    effective,
    in_child,
    link,
    map_self,
    refused,
    set_hostname,
    setns,
    unshare,
    write,
)

MS_BIND = 0x1000
DEEPEST = 33


def made_below(flags: int = 0) -> tuple[int, str]:
    """A user namespace below ours that no process is in: a descriptor, and its identity."""
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        map_self()
        unshare(flags)
        os.write(ready[1], b"+")
        os.close(done[1])
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    identity = link("user", pid)
    for end in (*ready, *done):
        os.close(end)
    os.waitpid(pid, 0)
    return fd, identity


@pytest.mark.userns
def test_namespaces_nest_only_so_deep() -> None:
    """user_namespaces(7), "Nested user namespaces": 32 levels below the initial one; then EUSERS,
    or ENOSPC since Linux 4.9."""
    for depth in range(DEEPEST + 1):
        try:
            map_self()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert 0 < depth <= DEEPEST
            return
    raise AssertionError("there is no limit")


@pytest.mark.userns
def test_the_number_of_namespaces_is_limited_by_whom_they_are_made() -> None:
    """namespaces(7), "/proc/sys/user": per user, and enforced in every ancestor (ENOSPC)."""
    write("/proc/sys/user/max_user_namespaces", "0")
    write("/proc/sys/user/max_uts_namespaces", "0")
    with refused(errno.ENOSPC):
        unshare(CLONE_NEWUSER)
    with refused(errno.ENOSPC):
        unshare(CLONE_NEWUTS)


@pytest.mark.userns
def test_nobody_whose_id_is_not_mapped_makes_one() -> None:
    """unshare(2), EPERM: the caller's effective id has no mapping in the user namespace."""
    unshare(CLONE_NEWUSER)
    with refused(errno.EPERM):
        unshare(CLONE_NEWUSER)


@pytest.mark.userns
def test_one_below_is_joined_with_all_capabilities() -> None:
    """setns(2): reassociating with a user namespace takes CAP_SYS_ADMIN there, and gives them all.
    The descriptor kept it: namespaces(7), "Namespace lifetime"."""
    fd, identity = made_below()
    setns(fd, CLONE_NEWUSER)
    assert link("user") == identity
    assert effective() == all_capabilities()
    os.close(fd)


@pytest.mark.userns
def test_one_s_own_is_not_joined() -> None:
    """setns(2), EINVAL: an attempt to reenter the caller's own user namespace."""
    fd = os.open("/proc/self/ns/user", os.O_RDONLY)
    with refused(errno.EINVAL):
        setns(fd, CLONE_NEWUSER)
    os.close(fd)


@pytest.mark.userns
def test_the_parent_is_not_joined() -> None:
    """setns(2), EPERM: no capabilities in the target namespace."""
    parent = os.open("/proc/self/ns/user", os.O_RDONLY)
    map_self()
    with refused(errno.EPERM):
        setns(parent, CLONE_NEWUSER)
    os.close(parent)


@pytest.mark.userns
def test_the_kind_of_a_descriptor_is_checked() -> None:
    """setns(2), EINVAL: fd refers to a namespace whose type does not match."""
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    with refused(errno.EINVAL):
        setns(fd, CLONE_NEWUSER)
    os.close(fd)


@pytest.mark.userns
def test_a_namespace_of_the_parent_is_not_joined_either() -> None:
    """setns(2): CAP_SYS_ADMIN in the user namespace that owns the target namespace."""
    outer = os.open("/proc/self/ns/uts", os.O_RDONLY)
    unshare(CLONE_NEWUTS)
    with refused(errno.EPERM):
        setns(outer, CLONE_NEWUTS)
    os.close(outer)


@pytest.mark.userns(mount=True)
def test_a_bind_mount_keeps_a_namespace(tmp_path: Path) -> None:
    """namespaces(7), "Namespace lifetime": a bind mount of its file."""
    place = tmp_path / "uts"
    place.write_text("")

    def make() -> None:
        unshare(CLONE_NEWUTS)
        set_hostname(b"kept")
        call("mount", b"/proc/self/ns/uts", os.fsencode(place), None, MS_BIND, None)

    in_child(make)
    fd = os.open(place, os.O_RDONLY)
    setns(fd, CLONE_NEWUTS)
    os.close(fd)
    assert os.uname().nodename == "kept"


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


@pytest.mark.userns(pid=True)
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


@pytest.mark.userns(pid=True)
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
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        map_self()
        os.write(ready[1], b"+")
        os.close(done[1])
        os.read(done[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    assert link("user", pid) != link("user")
    assert os.readlink(f"/proc/{pid}/exe") == os.readlink("/proc/self/exe")
    assert Path(f"/proc/{pid}/environ").read_bytes()
    for end in (*ready, *done):
        os.close(end)
    os.waitpid(pid, 0)


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
