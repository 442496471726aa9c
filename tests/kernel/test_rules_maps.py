"""Tests of the kernel rules for id maps.

The rules are in user_namespaces(7), "Defining user and group ID mappings", unless another source is
named. Each test runs as root of a user namespace in which only id 0 is mapped, and creates other
namespaces in it. So the results are the same for all users.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import prctl
import pytest
from rules import (
    CLONE_NEWUSER,
    OVERFLOW_ID,
    in_child,
    map_self,
    refused,
    unshare,
    waiting_child,
    write,
)

import usernsctl as un

pytestmark = pytest.mark.userns

MAP = "/proc/self/uid_map"
PAGE = os.sysconf("SC_PAGE_SIZE")


def fresh() -> None:
    """Enter a new user namespace; leave its maps unwritten."""
    unshare(CLONE_NEWUSER)


def test_a_new_namespace_has_no_map() -> None:
    """uid_map and gid_map of a new user namespace are empty."""
    fresh()
    with open(MAP) as file:
        assert file.read() == ""


def test_ids_without_a_map_show_as_the_overflow_id() -> None:
    """Unmapped ids appear as the overflow id ("Unmapped user and group IDs")."""
    fresh()
    assert (os.getuid(), os.getgid()) == (OVERFLOW_ID, OVERFLOW_ID)


def test_a_map_is_written_once() -> None:
    """Writing uid_map a second time fails with EPERM."""
    fresh()
    write(MAP, "0 0 1")
    with refused(errno.EPERM):
        write(MAP, "0 0 1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "0 0",
        "0 0 1 1",
        "a 0 1",
        "-1 0 1",
        "0 0 0",
        "4294967295 0 1",
        "0 4294967295 1",
        "0 0 4294967295\n4294967295 0 1",
    ],
)
def test_malformed_maps_fail_with_einval(text: str) -> None:
    """A line without three numbers, a count of 0 and an overflow fail with EINVAL."""
    fresh()
    with refused(errno.EINVAL):
        write(MAP, text)


@pytest.mark.parametrize("text", ["0 0 2\n1 2 1", "0 0 1\n0 1 1", "0 0 2\n2 1 1"])
def test_ranges_do_not_overlap(text: str) -> None:
    """Overlapping ranges in different lines fail with EINVAL."""
    fresh()
    with refused(errno.EINVAL):
        write(MAP, text)


@pytest.mark.userns_requires("kernel>=4.15")
def test_a_map_has_340_lines_at_most() -> None:
    """A map has at most 340 lines (since Linux 4.15); a longer map fails with EINVAL."""
    lines = "\n".join(f"{2 * n} {2 * n} 1" for n in range(341))
    assert len(lines) < PAGE
    fresh()
    with refused(errno.EINVAL):
        write(MAP, lines)
    # The map is well-formed, but fails with EPERM because the parent namespace maps only one of the
    # ids outside.
    with refused(errno.EPERM):
        write(MAP, lines.rpartition("\n")[0])


def test_a_map_is_shorter_than_a_page() -> None:
    """A map that is not shorter than a page fails with EINVAL."""
    fresh()
    with refused(errno.EINVAL):
        write(MAP, "0 0 1".ljust(PAGE))
    write(MAP, "0 0 1".ljust(PAGE - 1))


def test_a_map_is_written_from_its_start() -> None:
    """A write to uid_map at an offset other than 0 fails with EINVAL."""
    fresh()
    fd = os.open(MAP, os.O_WRONLY)
    os.lseek(fd, 1, os.SEEK_SET)
    with refused(errno.EINVAL):
        os.write(fd, b"0 0 1")
    os.close(fd)


@pytest.mark.parametrize("text", ["0 1 1", "0 0 2", "0 0 1\n1 1 1"])
def test_a_process_may_map_its_own_id_only(text: str) -> None:
    """Without CAP_SETUID in the parent namespace, a process may map only its own effective uid."""
    fresh()
    with refused(errno.EPERM):
        write(MAP, text)


@pytest.mark.parametrize("inside", [0, 1, 1000, 4294967294])
def test_the_own_id_can_be_mapped_to_any_id(inside: int) -> None:
    """A process may map its own uid to any uid inside."""
    fresh()
    write(MAP, f"{inside} 0 1")
    assert os.getuid() == inside


def written_from_outside(text: str, prepare: Callable[[], None] = lambda: None) -> None:
    """Call `prepare`; then write `text` to the uid_map of a child in a new user namespace."""
    with waiting_child(fresh) as pid:
        prepare()
        write(f"/proc/{pid}/uid_map", text)


def test_a_process_in_the_parent_may_write_the_map() -> None:
    """A process in the parent namespace may write the uid_map of a child namespace."""
    written_from_outside("0 0 1")


def test_ids_that_the_parent_lacks_can_not_be_mapped() -> None:
    """A map fails with EPERM if its ID-outside-ns is not mapped in the parent namespace."""
    with refused(errno.EPERM):
        written_from_outside("0 1 1")


@pytest.mark.userns_requires("kernel>=5.12")
def test_mapping_id_0_of_the_parent_needs_cap_setfcap() -> None:
    """Mapping id 0 of the parent fails with EPERM without CAP_SETFCAP (since Linux 5.12)."""

    def drop() -> None:
        prctl.cap_effective.setfcap = False

    with refused(errno.EPERM):
        written_from_outside("0 0 1", drop)


@pytest.mark.userns(map="auto")
def test_mapping_other_ids_needs_cap_setuid_in_the_parent() -> None:
    """Mapping ids other than the writer's own needs CAP_SETUID in the parent user namespace."""
    written_from_outside("0 1 1")
    with refused(errno.EPERM):
        written_from_outside("0 1 1", drop_setuid)
    # A process in the parent namespace may map its own id without CAP_SETUID.
    written_from_outside("5 0 1", drop_setuid)


def drop_setuid() -> None:
    prctl.cap_effective.setuid = False


@pytest.mark.userns(map="auto")
def test_the_opener_of_the_map_needs_cap_setuid_too() -> None:
    """A write to uid_map fails with EPERM unless opener and writer both have CAP_SETUID."""

    def write_without(fd: int) -> None:
        drop_setuid()
        os.write(fd, b"0 1 1")

    with waiting_child(fresh) as pid:
        fd = os.open(f"/proc/{pid}/uid_map", os.O_WRONLY)
        with refused(errno.EPERM):
            in_child(lambda: write_without(fd))
        os.write(fd, b"0 1 1")
        os.close(fd)


def test_a_process_in_a_sibling_may_not_write_the_map() -> None:
    """A process in a sibling namespace may not write a user namespace's uid_map."""
    with pytest.raises(PermissionError):
        written_from_outside("0 0 1", map_self)


# The test needs a namespace with a gid map and without denied setgroups(2). An unprivileged user
# gets such a namespace only from newgidmap, which maps subordinate ranges.
@pytest.mark.also_root
@pytest.mark.userns(
    map=un.IdMap.auto() if os.geteuid() else un.IdMap(map_user=0, map_group=0, setgroups="allow")
)
def test_gid_map_needs_setgroups_denied() -> None:
    """An unprivileged write to gid_map fails with EPERM unless setgroups(2) is denied first.

    Otherwise a process could drop a group to which a file's mode denies access ("The
    /proc/PID/setgroups file").
    """
    fresh()
    with refused(errno.EPERM):
        write("/proc/self/gid_map", "0 0 1")
    write("/proc/self/setgroups", "deny")
    write("/proc/self/gid_map", "0 0 1")
    assert os.getgid() == 0
    with refused(errno.EPERM):
        os.setgroups([])


def test_denied_setgroups_can_not_be_allowed_again() -> None:
    """Writing "allow" to /proc/PID/setgroups after "deny" fails with EPERM.

    A child namespace inherits "deny".
    """

    def setgroups() -> str:
        with open("/proc/self/setgroups") as file:
            return file.read()

    def below() -> str:
        fresh()
        return setgroups()

    map_self()
    assert setgroups() == "deny\n"
    with refused(errno.EPERM):
        write("/proc/self/setgroups", "allow")
    assert in_child(below) == "deny\n"


def test_setgroups_needs_a_gid_map() -> None:
    """setgroups(2) fails until gid_map is written, even if /proc/PID/setgroups has "allow"."""
    fresh()
    with refused(errno.EPERM):
        os.setgroups([])


def test_maps_are_shown_in_ids_of_the_reader() -> None:
    """The second field of a uid_map line is relative to the user namespace of its opener."""
    map_self(5)

    def nested() -> list[str]:
        map_self(7)
        with open(MAP) as file:
            # A process in the namespace itself reads the ids outside as ids of the parent
            # namespace.
            return file.read().split()

    assert in_child(nested) == ["7", "5", "1"]
    with open(MAP) as file:
        assert file.read().split() == ["5", "0", "1"]
