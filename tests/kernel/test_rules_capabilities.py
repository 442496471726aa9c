"""Capabilities in user namespaces: what is gained, what it is good for, and how it is lost."""

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

# prctl(2), linux/prctl.h; python-prctl does not have them.
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2


def after_exec() -> int:
    """The effective capabilities of a program that this process starts."""
    show = ["grep", "^CapEff:", "/proc/self/status"]
    return int(subprocess.check_output(show, text=True).split()[1], 16)


@pytest.mark.userns
def test_the_first_process_has_them_all() -> None:
    """user_namespaces(7), "Capabilities": a complete set in the new user namespace."""
    assert effective() == all_capabilities()


@pytest.mark.userns
def test_they_count_in_the_namespaces_that_it_owns_alone() -> None:
    """ "Interaction ... with other types of namespaces": the owner decides."""
    with refused(errno.EPERM):
        set_hostname(b"elsewhere")
    unshare(CLONE_NEWUTS)
    set_hostname(b"here")
    assert os.uname().nodename == "here"


@pytest.mark.userns
def test_no_mount_without_a_mount_namespace_of_ones_own() -> None:
    """mount(2) takes CAP_SYS_ADMIN in the user namespace that owns the mount namespace."""
    with refused(errno.EPERM):
        call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    unshare(CLONE_NEWNS)
    call("mount", b"none", b"/mnt", b"tmpfs", 0, None)
    assert os.listdir("/mnt") == []


@pytest.mark.userns(mount=True)
def test_file_systems_on_devices_stay_closed() -> None:
    """ "only a limited set of file systems" can be mounted: not those of a block device."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is looked at
        call("mount", b"/dev/null", b"/mnt", b"ext4", 0, None)
    assert caught.value.errno in (errno.EPERM, errno.ENODEV, errno.ENOTBLK, errno.EACCES)


@pytest.mark.userns
def test_nothing_that_is_not_namespaced_is_permitted() -> None:
    """ "Capabilities": such as changing the time (CAP_SYS_TIME) or making a device (CAP_MKNOD)."""
    with refused(errno.EPERM):
        time.clock_settime(time.CLOCK_REALTIME, time.time())
    with refused(errno.EPERM):
        os.mknod(f"/tmp/device-{os.getpid()}", 0o600 | 0o020000, os.makedev(1, 3))


@pytest.mark.userns
def test_root_keeps_them_across_exec() -> None:
    """capabilities(7), "Capabilities and execution of programs by root"."""
    assert after_exec() == all_capabilities()


@pytest.mark.userns(map="current")
@unprivileged
def test_who_is_not_root_loses_them_at_exec() -> None:
    """The same rule: a program gains none if neither user id is 0."""
    assert effective() == all_capabilities()
    assert after_exec() == 0


@pytest.mark.userns(map="current")
@unprivileged
def test_ambient_capabilities_survive_exec() -> None:
    """capabilities(7), "Ambient" (since Linux 4.3)."""
    prctl.cap_inheritable.sys_admin = True
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, prctl.CAP_SYS_ADMIN, 0, 0)
    assert after_exec() == 1 << prctl.CAP_SYS_ADMIN


@pytest.mark.userns(map="auto")
def test_a_change_to_another_uid_loses_them() -> None:
    """capabilities(7), "Effect of user ID changes on capabilities"."""
    os.setresuid(1, 1, 1)
    assert effective() == 0


@pytest.mark.userns(map="auto")
def test_keepcaps_keeps_them_permitted() -> None:
    """PR_SET_KEEPCAPS(2const)."""
    prctl.set_keepcaps(True)
    os.setresuid(1, 1, 1)
    assert effective() == 0
    prctl.cap_effective.sys_admin = True
    assert effective() == 1 << prctl.CAP_SYS_ADMIN


@pytest.mark.userns
def test_an_id_that_is_not_mapped_can_not_be_had() -> None:
    """setuid(2): EINVAL, the user ID is not valid in this user namespace."""
    with refused(errno.EINVAL):
        os.setuid(1)


@pytest.mark.userns
def test_below_they_are_had_again_and_above_they_are_not() -> None:
    """ "Capabilities": a process gains all in a new namespace, and has none in the parent."""

    def below() -> int:
        prctl.cap_effective.sys_time = False
        map_self()
        return effective()

    def above() -> None:
        map_self()
        # The UTS namespace is the one of the parent, which owns it.
        set_hostname(b"above")

    assert in_child(below) == all_capabilities()
    unshare(CLONE_NEWUTS)
    set_hostname(b"mine")
    with refused(errno.EPERM):
        in_child(above)


@pytest.mark.userns
def test_the_bounding_set_and_securebits_begin_anew() -> None:
    """ "Capabilities": a call that makes a user namespace sets the securebits to their default;
    and the bounding set, in which capabilities may lack, is full."""

    def below() -> tuple[bool, int]:
        prctl.capbset_drop(prctl.CAP_SYS_TIME)
        prctl.set_securebits(1 << 4)
        unshare(CLONE_NEWUSER)
        return bool(prctl.capbset_read(prctl.CAP_SYS_TIME)), prctl.get_securebits()

    assert in_child(below) == (True, 0)


@pytest.fixture
def made_inside(tmp_path: Path) -> Iterator[Path]:
    """A file for a test to make inside, whose owner is looked at outside afterwards."""
    path = tmp_path / "made"
    yield path
    assert path.stat().st_uid == os.geteuid()


@pytest.mark.userns
def test_a_file_made_by_root_inside_is_ours_outside(made_inside: Path) -> None:
    """ "User ID and group ID mapping": ids are translated wherever a file is looked at."""
    made_inside.write_text("")
    assert made_inside.stat().st_uid == 0


@pytest.mark.userns
@unprivileged
def test_a_file_of_an_unmapped_owner_resists() -> None:
    """ "Accessing files": capabilities over a file take its ids to be mapped (since Linux 3.8)."""
    assert Path("/etc/passwd").stat().st_uid == OVERFLOW_ID
    with refused(errno.EACCES):
        open("/etc/passwd", "a").close()
    with refused(errno.EPERM):
        os.chmod("/etc/passwd", 0o666)
    with refused(errno.EPERM):
        os.chown("/etc/passwd", 0, 0)


@pytest.mark.userns
def test_a_file_can_not_be_given_to_an_unmapped_owner(tmp_path: Path) -> None:
    """chown(2): EINVAL, the id has no mapping in the user namespace."""
    path = tmp_path / "file"
    path.write_text("")
    with refused(errno.EINVAL):
        os.chown(path, 1, -1)


@pytest.mark.userns(map="auto")
def test_a_file_can_be_given_to_a_mapped_one(tmp_path: Path) -> None:
    """capabilities(7), CAP_CHOWN, over a file whose ids are mapped."""
    path = tmp_path / "file"
    path.write_text("")
    os.chown(path, 1, 1)
    assert path.stat().st_uid == 1
    # So that the one who cleans up may remove what is in there.
    os.chown(path, 0, 0)
