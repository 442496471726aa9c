"""Tests of the kernel rules for capabilities in user namespaces."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import prctl
import pytest
from callers import unprivileged
from rules import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    OVERFLOW_ID,
    all_capabilities,
    call,
    effective,
    in_child,
    map_self,
    refused,
    set_hostname,
    unshare,
)

pytestmark = pytest.mark.also_root

# Constants of prctl(2) from linux/prctl.h, which python-prctl lacks.
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2


def after_exec() -> int:
    """Return the effective capabilities of a program that this process executes."""
    show = ["grep", "^CapEff:", "/proc/self/status"]
    return int(subprocess.check_output(show, text=True).split()[1], 16)


@pytest.mark.userns
def test_the_first_process_has_all_capabilities() -> None:
    """The first process in a new user namespace has all capabilities.

    See user_namespaces(7), "Capabilities".
    """
    assert effective() == all_capabilities()


@pytest.mark.userns
def test_capabilities_apply_to_owned_namespaces_only() -> None:
    """Capabilities apply to a namespace only if the process's user namespace owns it.

    See user_namespaces(7), "Interaction of user namespaces and other types of namespaces".
    """
    with refused(errno.EPERM):
        set_hostname(b"elsewhere")
    unshare(CLONE_NEWUTS)
    set_hostname(b"here")
    assert os.uname().nodename == "here"


@pytest.mark.userns
def test_mounts_need_an_own_mount_namespace() -> None:
    """mount(2) needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace."""
    with refused(errno.EPERM):
        call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    unshare(CLONE_NEWNS)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    assert os.listdir("/mnt") == []


@pytest.mark.userns(mount=True)
def test_file_systems_on_devices_can_not_be_mounted() -> None:
    """Only some filesystem types can be mounted, and none from block devices.

    See user_namespaces(7), "Interaction of user namespaces and other types of namespaces".
    """
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        call("mount", b"/dev/null", b"/mnt", b"ext4", 0, None)
    assert caught.value.errno in (errno.EPERM, errno.ENODEV, errno.ENOTBLK, errno.EACCES)


@pytest.mark.userns
def test_operations_without_a_namespace_are_denied() -> None:
    """Capabilities do not apply to resources without a namespace, such as the time (CAP_SYS_TIME).

    Creating a device (CAP_MKNOD) is denied, too. See user_namespaces(7), "Capabilities".
    """
    with refused(errno.EPERM):
        time.clock_settime(time.CLOCK_REALTIME, time.time())
    with refused(errno.EPERM):
        os.mknod(f"/tmp/device-{os.getpid()}", 0o600 | 0o020000, os.makedev(1, 3))


@pytest.mark.userns
def test_root_keeps_capabilities_across_exec() -> None:
    """Root keeps its capabilities across execve(2).

    See capabilities(7), "Capabilities and execution of programs by root".
    """
    assert after_exec() == all_capabilities()


@pytest.mark.userns(map="current")
@unprivileged
def test_other_users_lose_capabilities_at_exec() -> None:
    """A process without uid 0 loses its capabilities at execve(2).

    See capabilities(7), "Capabilities and execution of programs by root".
    """
    assert effective() == all_capabilities()
    assert after_exec() == 0


@pytest.mark.userns(map="current")
@unprivileged
def test_ambient_capabilities_survive_exec() -> None:
    """Ambient capabilities survive execve(2) (capabilities(7), since Linux 4.3)."""
    prctl.cap_inheritable.sys_admin = True
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, prctl.CAP_SYS_ADMIN, 0, 0)
    assert after_exec() == 1 << prctl.CAP_SYS_ADMIN


@pytest.mark.userns(map="auto")
def test_changing_the_uid_drops_capabilities() -> None:
    """Setting all uids to nonzero values clears the capabilities.

    See capabilities(7), "Effect of user ID changes on capabilities".
    """
    os.setresuid(1, 1, 1)
    assert effective() == 0


@pytest.mark.userns(map="auto")
def test_keepcaps_keeps_capabilities_permitted() -> None:
    """PR_SET_KEEPCAPS keeps the permitted set when the uid changes (PR_SET_KEEPCAPS(2const))."""
    prctl.set_keepcaps(True)
    os.setresuid(1, 1, 1)
    assert effective() == 0
    prctl.cap_effective.sys_admin = True
    assert effective() == 1 << prctl.CAP_SYS_ADMIN


@pytest.mark.userns
def test_unmapped_ids_fail_with_einval() -> None:
    """setuid(2) fails with EINVAL for a uid that is not mapped."""
    with refused(errno.EINVAL):
        os.setuid(1)


@pytest.mark.userns
def test_capabilities_return_below_but_not_above() -> None:
    """A process has all capabilities in a new user namespace, and none in the parent namespace.

    See user_namespaces(7), "Capabilities".
    """

    def below() -> int:
        prctl.cap_effective.sys_time = False
        map_self()
        return effective()

    def above() -> None:
        map_self()
        # This call must fail: the parent user namespace owns the UTS namespace.
        set_hostname(b"above")

    assert in_child(below) == all_capabilities()
    unshare(CLONE_NEWUTS)
    set_hostname(b"mine")
    with refused(errno.EPERM):
        in_child(above)


@pytest.mark.userns
def test_the_bounding_set_and_securebits_are_reset() -> None:
    """A new user namespace starts with default securebits and a full bounding set.

    See user_namespaces(7), "Capabilities".
    """

    def below() -> tuple[bool, int]:
        prctl.capbset_drop(prctl.CAP_SYS_TIME)
        prctl.set_securebits(1 << 4)
        unshare(CLONE_NEWUSER)
        return bool(prctl.capbset_read(prctl.CAP_SYS_TIME)), prctl.get_securebits()

    assert in_child(below) == (True, 0)


@pytest.fixture
def made_inside(tmp_path: Path) -> Iterator[Path]:
    """Yield a path where the test creates a file; then check that its owner is the caller."""
    path = tmp_path / "made"
    yield path
    assert path.stat().st_uid == os.geteuid()


@pytest.mark.userns
def test_files_of_root_inside_belong_to_the_caller_outside(made_inside: Path) -> None:
    """The kernel translates a file's owner by uid_map and gid_map.

    See user_namespaces(7), "User ID and group ID mapping".
    """
    made_inside.write_text("")
    assert made_inside.stat().st_uid == 0


@pytest.mark.userns
@unprivileged
def test_root_inside_has_no_power_over_files_of_unmapped_owners() -> None:
    """Capabilities apply to a file only if its uid and gid are mapped (since Linux 3.8).

    See user_namespaces(7), "Accessing files".
    """
    assert Path("/etc/passwd").stat().st_uid == OVERFLOW_ID
    with refused(errno.EACCES):
        open("/etc/passwd", "a").close()
    with refused(errno.EPERM):
        os.chmod("/etc/passwd", 0o666)
    with refused(errno.EPERM):
        os.chown("/etc/passwd", 0, 0)


@pytest.mark.userns
def test_a_file_can_not_be_given_to_an_unmapped_owner(tmp_path: Path) -> None:
    """chown(2) fails with EINVAL for an id that is not mapped."""
    path = tmp_path / "file"
    path.write_text("")
    with refused(errno.EINVAL):
        os.chown(path, 1, -1)


@pytest.mark.userns(map="auto")
def test_a_file_can_be_given_to_a_mapped_owner(tmp_path: Path) -> None:
    """CAP_CHOWN suffices to give a file to a mapped id (capabilities(7))."""
    path = tmp_path / "file"
    path.write_text("")
    os.chown(path, 1, 1)
    assert path.stat().st_uid == 1
    # Make the caller the owner of the file again, so that the caller can remove the directory.
    os.chown(path, 0, 0)
