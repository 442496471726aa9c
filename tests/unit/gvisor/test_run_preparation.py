"""Tests of preparing a run: environment variables, ids, mounts and paths. They start no process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from usernsctl._core import Descriptor
from usernsctl._system.paths import PathDescriptor
from usernsctl.doctor.reading import mount_options
from usernsctl.errors import BindError, CommandError, NamespaceError, PlanError
from usernsctl.gvisor.launch.facts import HostFiles, check_ids, home_directories, open_files
from usernsctl.gvisor.launch.options import base_environment, read_env_file, read_settings
from usernsctl.gvisor.launch.plan import apply_request
from usernsctl.gvisor.launch.request import Bind, Request
from usernsctl.gvisor.oci import bind_mounts
from usernsctl.gvisor.runsc.command import DEFAULT_PATH
from usernsctl.maps import Extent, MappedIds

CALLER = {"PATH": "/bin", "TERM": "vt100", "TOKEN": "secret", "HOME": "/home/me"}


def ids_of(uid: tuple[Extent, ...], gid: tuple[Extent, ...], become: tuple[int, int]) -> MappedIds:
    return MappedIds(uid=uid, gid=gid, become=become)


ONE_ID = ids_of((Extent(0, 1000, 1),), (Extent(0, 1000, 1),), (0, 0))


def test_base_environment_has_few_variables() -> None:
    kept = base_environment(CALLER, everything=False)
    assert kept == {"PATH": "/bin", "TERM": "vt100"}
    assert base_environment({}, everything=False) == {"PATH": DEFAULT_PATH}
    assert base_environment(CALLER, everything=True) == CALLER


def test_settings_are_read() -> None:
    read = read_settings(["A=b=c", "EMPTY=", "TOKEN"], CALLER)
    assert read == {"A": "b=c", "EMPTY": "", "TOKEN": "secret"}


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("", "the name before the = is missing"),
        ("=x", "the name before the = is missing"),
        (" A=b", "the name contains a space"),
        ("export A=b", "the name contains a space; .* without spaces and export"),
        ("A =b", "the name contains a space"),
        ("ABSENT", "ABSENT is not set; export ABSENT, or write ABSENT=VALUE"),
        ("a-b", "the variable is not set; write NAME=VALUE"),
    ],
)
def test_invalid_settings_raise(setting: str, reason: str) -> None:
    with pytest.raises(CommandError, match=f"--env, number 1: {reason}"):
        read_settings([setting], CALLER)


def test_env_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_bytes(b'# comment\r\nA="b"\r\n\nTOKEN\nLAST=1')
    assert read_env_file(str(file), CALLER) == {"A": '"b"', "TOKEN": "secret", "LAST": "1"}
    file.write_text("A=b\nABSENT\n")
    with pytest.raises(CommandError, match="line 2: ABSENT is not set"):
        read_env_file(str(file), CALLER)
    file.write_bytes(b"A=\xff")
    with pytest.raises(CommandError, match="line 1: a byte that is not UTF-8"):
        read_env_file(str(file), CALLER)


def test_endless_or_irregular_env_files_are_refused(tmp_path: Path) -> None:
    big, fifo = tmp_path / "big", tmp_path / "fifo"
    with big.open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(fifo)
    for path, message in (
        ("/dev/zero", "is longer than 8388608 bytes"),
        (big, "is longer than 8388608 bytes"),
        (fifo, "a FIFO; give a regular file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(CommandError, match=message) as caught:
            read_env_file(str(path), {})
        assert str(path) in str(caught.value)
    assert read_env_file("/dev/null", {}) == {}


def test_env_file_may_be_a_pipe() -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb"):
        os.write(theirs, b"A=b\n")
        os.close(theirs)
        assert read_env_file(f"/dev/fd/{ours}", {}) == {"A": "b"}


def test_unmapped_ids_raise() -> None:
    check_ids(ONE_ID, (0, 0))
    ranges = ids_of((Extent(0, 1000, 1), Extent(1, 100000, 9)), (Extent(0, 1000, 1),), (0, 0))
    check_ids(ranges, (9, 0))
    with pytest.raises(PlanError, match="uid 10 is not mapped: the map has only 0, 1 to 9"):
        check_ids(ranges, (10, 0))
    with pytest.raises(PlanError, match="gid 9 is not mapped"):
        check_ids(ranges, (9, 9))
    with pytest.raises(PlanError, match="uid 0 and gid 0"):
        check_ids(ids_of((Extent(5, 1000, 1),), (Extent(5, 1000, 1),), (5, 5)), (5, 5))


def host_files(**fields: str) -> HostFiles:
    every: dict[str, Any] = {
        "runsc": "/usr/bin/runsc",
        "watcher": "/usr/lib/usernsctl-watch",
        **fields,
    }
    named = {name: PathDescriptor(Descriptor(), path) for name, path in every.items()}
    return HostFiles(verifier=None, tree=None, **named)


def test_scratch_does_not_cover_used_paths() -> None:
    free = host_files().scratch_places()[0]
    assert os.path.isdir(free)
    for used in (
        host_files(runsc=f"{free}/runsc"),
        host_files(state=f"{free}/a/b"),
    ):
        assert used.scratch_places()[0] != free
    assert host_files().scratch_places([f"{free}/source"])[0] != free
    assert host_files(debug_log=free).scratch_places()[0] == free, "it is held by a descriptor"


def test_missing_scratch_directory_raises() -> None:
    every = [f"{place}/x" for place in os.listdir("/") for place in (f"/{place}",)]
    every.append("/var/tmp/x")
    with pytest.raises(NamespaceError, match="no directory is free"):
        host_files().scratch_places(every)


def test_bind_mounts_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    request = Request(binds=(Bind("link", "/a//b/../c", False),), verify=False)
    used = open_files(request, "/bin/sh", ONE_ID)
    (bind,) = used.binds
    assert used.sources[bind.source].is_directory
    assert bind == Bind(f"{tmp_path}/real", "/a/c", False)
    assert Bind.shown("link").destination == f"{tmp_path}/link"
    for bad in (Bind("absent", "/a"), Bind("link", "a"), Bind("link", "/"), Bind("link", "/a/..")):
        with pytest.raises(BindError, match="--bind"):
            open_files(Request(binds=(bad,), verify=False), "/bin/sh", ONE_ID)
    for missing, kind in (("absent", FileNotFoundError), ("/etc/passwd/x", NotADirectoryError)):
        bad = Bind(missing, "/a")
        with pytest.raises(kind) as caught:
            open_files(Request(binds=(bad,), verify=False), "/bin/sh", ONE_ID)
        assert isinstance(caught.value, BindError)
        assert caught.value.filename == missing
        assert caught.value.remedy
    for missing, kind in (("/absent", FileNotFoundError), ("/etc/passwd", NotADirectoryError)):
        with pytest.raises(kind, match="the root filesystem"):
            open_files(Request(rootfs=missing, verify=False), "/bin/sh", ONE_ID)


def test_home_directories_come_from_home_and_passwd() -> None:
    homes = home_directories({"HOME": "/home/../home/me/"})
    assert "/home/me" in homes
    assert "/opt/me" in home_directories({"HOME": "//opt/me"})
    assert "/" not in home_directories({"HOME": "/"})
    assert "" not in home_directories({"HOME": "relative"})


def test_request_overrides_values_of_the_bundle() -> None:
    bundle: dict[str, Any] = {
        "process": {"args": ["own"], "env": ["A=b", "C=d"], "cwd": "/"},
        "root": {"path": "/elsewhere"},
        "annotations": {"kept": "yes"},
    }
    request = Request(args=("other",), env={"C": "e"}, user=(0, 0), hostname="name")
    apply_request(bundle, request, "/top", (Bind("/src", "/dst", False),))
    assert bundle["process"]["args"] == ["other"]
    assert bundle["process"]["env"] == ["A=b", "C=e"]
    assert bundle["process"]["user"] == {"uid": 0, "gid": 0}
    assert (bundle["root"]["path"], bundle["hostname"]) == ("/top", "name")
    (mount,) = bind_mounts(bundle)
    assert (mount["source"], mount["destination"]) == ("/src", "/dst")
    assert "rw" in mount["options"]
    assert bundle["annotations"] == {"kept": "yes"}


MOUNTINFO = """\
22 1 0:1 / / rw,relatime - ext4 /dev/root rw
30 22 0:2 / /top ro,nosuid,nodev,relatime - tmpfs tmpfs rw
31 22 0:3 / /top/with\\040space rw,nosuid master:1 - tmpfs tmpfs rw
32 22 0:4 / /topmost rw - tmpfs tmpfs rw
33 22 0:5 / /top/a rw,nodev - tmpfs tmpfs rw
34 33 0:6 / /top/a rw,noexec - tmpfs tmpfs rw
"""


def test_mount_options_are_read_from_mountinfo() -> None:
    found = mount_options(MOUNTINFO)
    assert set(found) == {"/", "/top", "/top/with space", "/topmost", "/top/a"}
    assert found["/top"] == ["ro", "nosuid", "nodev", "relatime"]
    assert found["/top/with space"] == ["rw", "nosuid"]
    assert found["/top/a"] == ["rw", "noexec"], "the mount on top counts"
