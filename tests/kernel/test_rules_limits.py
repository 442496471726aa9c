"""How many user namespaces there can be: nesting, and the limits of /proc/sys/user."""

from __future__ import annotations

import errno
import time

import prctl
import pytest
from rules import (
    CLONE_NEWUSER,
    CLONE_NEWUTS,
    in_child,
    map_self,
    refused,
    unshare,
    waiting_child,
    write,
)

DEEPEST = 33
LIMIT = "/proc/sys/user/max_user_namespaces"
# How long the kernel may take to free what nobody has any more, in seconds.
PATIENCE = 20


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
def test_each_one_made_counts_until_it_is_gone() -> None:
    """namespaces(7), "/proc/sys/user": the counter goes up and, some time after its end, down."""
    write(LIMIT, "1")
    with waiting_child(map_self), refused(errno.ENOSPC):
        in_child(map_self)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            in_child(map_self)
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert time.monotonic() < deadline
        else:
            return


@pytest.mark.userns
def test_a_limit_counts_what_is_made_further_below() -> None:
    """namespaces(7), "/proc/sys/user": a namespace is counted in all ancestors of its own too."""
    write(LIMIT, "1")
    map_self()
    # Here there is no limit that would be as low, but there is one above.
    write(LIMIT, "1000")
    with refused(errno.ENOSPC):
        unshare(CLONE_NEWUSER)


@pytest.mark.userns
def test_who_is_not_root_of_it_sets_no_limit() -> None:
    """namespaces(7), "/proc/sys/user": to write takes CAP_SYS_RESOURCE in that namespace."""
    prctl.cap_effective.sys_resource = False
    prctl.cap_effective.dac_override = False
    with open(LIMIT) as file:
        limit = file.read()
    with pytest.raises(PermissionError):
        write(LIMIT, "1")
    with open(LIMIT) as file:
        assert file.read() == limit
