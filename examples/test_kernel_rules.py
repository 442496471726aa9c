"""Tests of the kernel's rules, with usernsctl's pytest plugin alone.

    pytest examples/test_kernel_rules.py

Every user can run these tests. They change nothing on the host, and a test that can't run is
skipped with the reason.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import usernsctl as un
from usernsctl.pytest_plugin import Subids


@pytest.mark.userns
def test_we_are_root_but_only_here() -> None:
    """user_namespaces(7), "Capabilities": root has all capabilities, but in this namespace only."""
    assert os.getuid() == 0
    with pytest.raises(PermissionError):
        socket.sethostname("elsewhere")


@pytest.mark.userns(uts=True)
def test_the_name_of_the_host_is_ours_to_change() -> None:
    """uts_namespaces(7): each UTS namespace has a host name."""
    socket.sethostname("here")
    assert os.uname().nodename == "here"


@pytest.mark.userns(net=True)
def test_there_is_no_way_out() -> None:
    """network_namespaces(7): a new namespace has only a loopback device, which is down."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


@pytest.mark.userns(mount=True, pid=True, mount_proc=True)
def test_nobody_else_is_seen() -> None:
    """pid_namespaces(7), "/proc and PID namespaces": /proc lists the namespace's processes."""
    assert {name for name in os.listdir("/proc") if name.isdecimal()} == {"1", str(os.getpid())}


@pytest.fixture
def file_made_inside(tmp_path: Path) -> Iterator[Path]:
    """Yield a path for the test to create a file at; then check the file's owner outside.

    Fixtures run outside of the namespace.
    """
    path = tmp_path / "made"
    yield path
    assert path.stat().st_uid == os.geteuid()


@pytest.mark.userns
def test_a_file_has_an_owner_on_either_side(file_made_inside: Path) -> None:
    """user_namespaces(7), "User ID and group ID mappings": stat(2) translates owners."""
    file_made_inside.write_text("")
    assert file_made_inside.stat().st_uid == 0


@pytest.mark.userns(map="auto")
@pytest.mark.parametrize("inside", [1, 1000])
def test_others_can_be_had_where_they_are_mapped(inside: int, userns_subids: Subids) -> None:
    """setuid(2): a process can only change to an id that its user namespace maps."""
    if not any(inside < extent.inside + extent.count for extent in userns_subids.uids):
        pytest.skip("the subordinate ranges are shorter")
    os.setresuid(inside, inside, inside)
    assert os.getuid() == inside


@pytest.mark.userns_requires("kernel>=5.6")
@pytest.mark.userns(time=True)
def test_a_clock_of_ones_own() -> None:
    """time_namespaces(7), "/proc/PID/timens_offsets": the file lists the offsets of clocks."""
    assert Path("/proc/self/timens_offsets").read_text().split()[:2] == ["monotonic", "0"]


def test_commands_run_in_a_kept_namespace(userns: un.Namespace) -> None:
    """namespaces(7), "Namespace lifetime": an open descriptor keeps a namespace alive."""
    userns.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
    userns.run(["touch", "/mnt/file"], check=True)
    assert userns.check_output(["ls", "/mnt"], text=True) == "file\n"
    assert not os.path.exists("/mnt/file")


@pytest.mark.userns_requires("cap:SYS_ADMIN")
def test_root_may_do_the_same_without() -> None:
    """mount_namespaces(7): CAP_SYS_ADMIN suffices, if pytest itself has that capability."""
    subprocess.run(["unshare", "--mount", "true"], check=True)
