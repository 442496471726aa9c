"""Tests of the kernel rules for joining namespaces, and for the lifetime of namespaces."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from pathlib import Path

import prctl
import pytest
from rules import (
    CLONE_NEWNS,
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
    waiting_child,
)

pytestmark = pytest.mark.also_root

MS_BIND = 0x1000
# Requests of ioctl_nsfs(2), from linux/nsfs.h.
NS_GET_USERNS = 0xB701
NS_GET_PARENT = 0xB702


def made_below() -> tuple[int, str]:
    """Create a child user namespace without processes; return its descriptor and /proc link."""
    with waiting_child(map_self) as pid:
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY), link("user", pid)


@pytest.mark.userns
def test_joining_a_child_namespace_gives_all_capabilities() -> None:
    """A process that joins a child user namespace gains all capabilities there.

    setns(2) needs CAP_SYS_ADMIN in the joined namespace, which the open descriptor keeps alive
    (namespaces(7), "Namespace lifetime").
    """
    fd, identity = made_below()
    setns(fd, CLONE_NEWUSER)
    assert link("user") == identity
    assert effective() == all_capabilities()
    os.close(fd)


@pytest.mark.userns
def test_the_own_user_namespace_can_not_be_joined() -> None:
    """setns(2) fails with EINVAL for the caller's own user namespace."""
    fd = os.open("/proc/self/ns/user", os.O_RDONLY)
    with refused(errno.EINVAL):
        setns(fd, CLONE_NEWUSER)
    os.close(fd)


@pytest.mark.userns
def test_the_parent_can_not_be_joined() -> None:
    """setns(2) fails with EPERM for the parent namespace, where the caller has no capabilities."""
    parent = os.open("/proc/self/ns/user", os.O_RDONLY)
    map_self()
    with refused(errno.EPERM):
        setns(parent, CLONE_NEWUSER)
    os.close(parent)


@pytest.mark.userns
def test_the_kind_of_a_descriptor_is_checked() -> None:
    """setns(2) fails with EINVAL if the descriptor refers to a namespace of another type."""
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    with refused(errno.EINVAL):
        setns(fd, CLONE_NEWUSER)
    os.close(fd)


@pytest.mark.userns
def test_namespaces_owned_by_the_parent_can_not_be_joined() -> None:
    """setns(2) needs CAP_SYS_ADMIN in the user namespace that owns the target namespace."""
    outer = os.open("/proc/self/ns/uts", os.O_RDONLY)
    unshare(CLONE_NEWUTS)
    with refused(errno.EPERM):
        setns(outer, CLONE_NEWUTS)
    os.close(outer)


@pytest.mark.userns(mount=True)
def test_a_bind_mount_keeps_a_namespace(tmp_path: Path) -> None:
    """A bind mount of /proc/PID/ns/uts keeps the namespace alive (namespaces(7))."""
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


# Skip with ThreadSanitizer, which kills a process that starts a thread after fork(2).
@pytest.mark.unsanitized
@pytest.mark.userns
def test_threads_may_not_join() -> None:
    """setns(2) into a user namespace fails with EINVAL in a multithreaded process."""
    fd, _ = made_below()
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        with refused(errno.EINVAL):
            setns(fd, CLONE_NEWUSER)
    finally:
        over.set()
        thread.join()
        os.close(fd)


@pytest.mark.userns
def test_joining_a_mount_namespace_needs_capabilities_in_the_own_one() -> None:
    """setns(2) into a mount namespace also needs capabilities in the caller's user namespace.

    setns(2) needs CAP_SYS_CHROOT and CAP_SYS_ADMIN in the caller's user namespace, and
    CAP_SYS_ADMIN in the user namespace that owns the mount namespace.
    """
    with waiting_child(lambda: unshare(CLONE_NEWNS)) as pid:
        fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    prctl.cap_effective.sys_chroot = False
    with refused(errno.EPERM):
        setns(fd, CLONE_NEWNS)
    prctl.cap_effective.sys_chroot = True
    setns(fd, CLONE_NEWNS)
    os.close(fd)


@pytest.mark.userns(pid=True)
def test_an_ancestor_pid_namespace_can_not_be_joined() -> None:
    """setns(2) fails with EINVAL for a PID namespace that is neither the caller's nor below it."""
    above = os.open("/proc/self/ns/pid", os.O_RDONLY)
    setns(above, CLONE_NEWPID)

    def below() -> None:
        with refused(errno.EINVAL):
            setns(above, CLONE_NEWPID)

    unshare(CLONE_NEWPID)
    in_child(below)
    os.close(above)


@pytest.mark.userns(map="auto")
def test_the_creator_has_all_capabilities_in_the_namespace() -> None:
    """A process in the parent namespace with the creator's uid has all capabilities in the child.

    Other users have no capabilities there. See user_namespaces(7), "Capabilities".
    """

    def as_user(uid: int) -> None:
        os.setresuid(uid, uid, uid)
        assert effective() == 0

    def make() -> None:
        as_user(1)
        # Make the process dumpable again: the change of ids made it non-dumpable, so that root
        # owned its files in /proc.
        prctl.set_dumpable(True)
        unshare(CLONE_NEWUSER)

    def join(uid: int, fd: int) -> int:
        as_user(uid)
        setns(fd, CLONE_NEWUSER)
        return effective()

    with waiting_child(make) as pid:
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
        assert in_child(lambda: join(1, fd)) == all_capabilities()
        with refused(errno.EPERM):
            in_child(lambda: join(2, fd))
        os.close(fd)


@pytest.mark.userns
def test_ioctl_returns_parent_and_owner() -> None:
    """ioctl_nsfs(2) opens a namespace's parent and owner, but none above the caller's (EPERM)."""
    fd, _ = made_below()
    parent = fcntl.ioctl(fd, NS_GET_PARENT)
    unshare(CLONE_NEWUTS)
    uts = os.open("/proc/self/ns/uts", os.O_RDONLY)
    owner = fcntl.ioctl(uts, NS_GET_USERNS)
    ours = os.stat("/proc/self/ns/user")
    assert os.path.samestat(os.fstat(parent), ours)
    assert os.path.samestat(os.fstat(owner), ours)
    with refused(errno.EPERM):
        fcntl.ioctl(parent, NS_GET_PARENT)
    for each in (fd, parent, uts, owner):
        os.close(each)


@pytest.mark.userns
def test_a_namespace_keeps_its_parent() -> None:
    """A namespace keeps its parent namespace alive (namespaces(7), "Namespace lifetime")."""

    def make() -> None:
        map_self()
        map_self()

    with waiting_child(make) as pid:
        fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    # Neither namespace has a process any more, since the child, their only process, has exited.
    parent = fcntl.ioctl(fd, NS_GET_PARENT)
    setns(parent, CLONE_NEWUSER)
    setns(fd, CLONE_NEWUSER)
    assert os.getuid() == 0
    os.close(fd)
    os.close(parent)
