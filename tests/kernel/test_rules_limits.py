"""Tests of the kernel's limits on the number and the nesting of user namespaces."""

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
# Timeout in seconds for the kernel to free an unused namespace.
PATIENCE = 20


@pytest.mark.userns
def test_namespaces_nest_32_levels_deep() -> None:
    """User namespaces nest at most 32 levels deep; unshare(2) then fails with ENOSPC.

    See user_namespaces(7), "Nested user namespaces". Before Linux 4.9, the error was EUSERS.
    """
    for depth in range(DEEPEST + 1):
        try:
            map_self()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert 0 < depth <= DEEPEST
            return
    raise AssertionError("there is no limit")


@pytest.mark.userns
def test_limits_of_namespaces_apply_to_the_creator() -> None:
    """A limit applies to each creating user, even to root (namespaces(7), "/proc/sys/user")."""
    write("/proc/sys/user/max_user_namespaces", "0")
    write("/proc/sys/user/max_uts_namespaces", "0")
    with refused(errno.ENOSPC):
        unshare(CLONE_NEWUSER)
    with refused(errno.ENOSPC):
        unshare(CLONE_NEWUTS)


@pytest.mark.userns
def test_unmapped_ids_can_not_create_namespaces() -> None:
    """unshare(CLONE_NEWUSER) fails with EPERM if the caller's effective ids are not mapped."""
    unshare(CLONE_NEWUSER)
    with refused(errno.EPERM):
        unshare(CLONE_NEWUSER)


@pytest.mark.userns
def test_a_namespace_counts_until_it_is_freed() -> None:
    """A freed namespace no longer counts against the limit (namespaces(7), "/proc/sys/user")."""
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
def test_a_limit_counts_namespaces_of_descendants() -> None:
    """A namespace counts against the limits of all ancestors (namespaces(7), "/proc/sys/user")."""
    write(LIMIT, "1")
    map_self()
    # The limit of this namespace is higher, so the limit of its parent takes effect.
    write(LIMIT, "1000")
    with refused(errno.ENOSPC):
        unshare(CLONE_NEWUSER)


@pytest.mark.userns
def test_writing_a_limit_needs_cap_sys_resource() -> None:
    """Writing a limit needs CAP_SYS_RESOURCE in the namespace (namespaces(7), "/proc/sys/user")."""
    prctl.cap_effective.sys_resource = False
    prctl.cap_effective.dac_override = False
    with open(LIMIT) as file:
        limit = file.read()
    with pytest.raises(PermissionError):
        write(LIMIT, "1")
    with open(LIMIT) as file:
        assert file.read() == limit
