"""Tests of the kernel's rules for namespaces. The tests need only usernsctl's pytest plugin.

    pytest -c /dev/null examples/test_kernel_rules.py

Any user can run these tests. They change nothing on the host. A test that the host can't run is
skipped with the reason. Without -c, pytest would read the pyproject.toml of usernsctl, whose
options need further plugins.
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
    """Check that root inside can't change the name of the host (user_namespaces(7))."""
    assert os.getuid() == 0
    with pytest.raises(PermissionError):
        socket.sethostname("elsewhere")


@pytest.mark.userns(uts=True)
def test_the_name_of_the_host_is_ours_to_change() -> None:
    """Check that a UTS namespace has its own host name (uts_namespaces(7))."""
    socket.sethostname("here")
    assert os.uname().nodename == "here"


@pytest.mark.userns(net=True)
def test_there_is_no_way_out() -> None:
    """Check that a new network namespace has only a loopback device (network_namespaces(7))."""
    assert [name for _, name in socket.if_nameindex()] == ["lo"]
    with pytest.raises(OSError, match="unreachable"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


@pytest.mark.userns(mount=True, pid=True, mount_proc=True)
def test_nobody_else_is_seen() -> None:
    """Check that /proc lists only the processes of the test's PID namespace (pid_namespaces(7))."""
    assert {name for name in os.listdir("/proc") if name.isdecimal()} == {"1", str(os.getpid())}


@pytest.fixture
def file_made_inside(tmp_path: Path) -> Iterator[Path]:
    """Yield the path of a file that the test must create, then check its owner on the host.

    A fixture runs outside the namespace in which the test runs.
    """
    path = tmp_path / "made"
    yield path
    assert path.stat().st_uid == os.geteuid()


@pytest.mark.userns
def test_a_file_has_an_owner_on_either_side(file_made_inside: Path) -> None:
    """Check that stat(2) translates a file's owner to an id inside (user_namespaces(7))."""
    file_made_inside.write_text("")
    assert file_made_inside.stat().st_uid == 0


@pytest.mark.userns(map="auto")
@pytest.mark.parametrize("inside", [1, 1000])
def test_others_can_be_had_where_they_are_mapped(inside: int, userns_subids: Subids) -> None:
    """Check that a process can switch to an id that its user namespace maps (setuid(2))."""
    if not any(inside < extent.inside + extent.count for extent in userns_subids.uids):
        pytest.skip("the subordinate ranges are shorter")
    os.setresuid(inside, inside, inside)
    assert os.getuid() == inside


@pytest.mark.userns_requires("kernel>=5.6")
@pytest.mark.userns(time=True)
def test_a_clock_of_ones_own() -> None:
    """Check that /proc/self/timens_offsets lists the clock offsets (time_namespaces(7))."""
    assert Path("/proc/self/timens_offsets").read_text().split()[:2] == ["monotonic", "0"]


def test_commands_run_in_a_kept_namespace(userns: un.Namespace) -> None:
    """Check that a descriptor keeps a namespace alive between commands (namespaces(7))."""
    userns.run(["mount", "-t", "tmpfs", "none", "/mnt"], check=True)
    userns.run(["touch", "/mnt/file"], check=True)
    assert userns.check_output(["ls", "/mnt"], text=True) == "file\n"
    assert not os.path.exists("/mnt/file")


@pytest.mark.userns_requires("cap:SYS_ADMIN")
def test_root_may_do_the_same_without() -> None:
    """Check that CAP_SYS_ADMIN is enough to create a mount namespace (mount_namespaces(7))."""
    subprocess.run(["unshare", "--mount", "true"], check=True)
