"""Tests of usernsctl-exec --launch on a host that has changed since the file was written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program
from frozen import assert_ran, assert_refused, freeze

from usernsctl import _core
from usernsctl._system.paths import PathDescriptor

Change = Callable[[Path], object]

OUTDATED = "launch-outdated"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def link_to(target: str) -> Change:
    def change(path: Path) -> None:
        remove(path)
        path.symlink_to(target)

    return change


def replace_parent(path: Path) -> None:
    """Rename the parent directory of `path`, and put a symbolic link in its place."""
    moved = path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to(moved)


SOURCE_CHANGES = {
    "gone": (remove, "{path} does not exist on this machine any more"),
    "a link": (
        link_to("/etc"),
        "{path} is a symbolic link, but was none when the launch was frozen",
    ),
    "a link to nothing": (link_to("/nonexistent"), "{path} is a symbolic link"),
    "a link to itself": (link_to("source"), "{path} is a symbolic link"),
    "below a link": (replace_parent, "{path} does not exist on this machine any more"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "parent" / "source"
    path.mkdir(parents=True)
    (path / "file").write_text("content\n")
    return path


@pytest.mark.parametrize("name", SOURCE_CHANGES)
@pytest.mark.parametrize("how", ["--rootfs", "ro", "rw", "file"])
@pytest.mark.sampled
def test_removed_or_replaced_source_is_refused(
    prelude: Program, tmp_path: Path, source: Path, name: str, how: str
) -> None:
    if how == "file":
        remove(source)
        source.write_text("content\n")
    access = "ro" if how == "file" else how
    options = ["--rootfs", source] if how == "--rootfs" else ["--bind", f"{source}:/x:{access}"]
    launch = freeze(tmp_path / "launch", *map(str, options))
    change, says = SOURCE_CHANGES[name]
    change(source)
    done = prelude("--launch", launch)
    told = says.format(path=source)
    assert_refused(done, f"{launch}: {told}", f"remedy: usernsctl freeze {options[0]}",
                   cause=OUTDATED)  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_root_filesystem_replaced_by_a_file_is_refused(
    prelude: Program, tmp_path: Path, source: Path, kind: str
) -> None:
    launch = freeze(tmp_path / "launch", "--rootfs", str(source))
    remove(source)
    source.write_text("") if kind == "file" else os.mkfifo(source)
    told = f"the root filesystem {source} is not a directory any more"
    assert_refused(prelude("--launch", launch), told, cause=OUTDATED)


def test_bind_source_of_another_type_is_mounted(
    prelude: Program, tmp_path: Path, source: Path
) -> None:
    """Check that a launch accepts a bind source whose content and type have changed.

    The launch file records neither.
    """
    command = ("sh", "-c", "cat /x/file /x 2>/dev/null; :")
    options = ["--bind", f"{source}:/x"]
    launch = freeze(tmp_path / "launch", *options, command=command)
    assert_ran(prelude("--launch", launch), "content\n")
    (source / "file").write_text("new\n")
    assert_ran(prelude("--launch", launch), "new\n")
    remove(source)
    source.write_text("a file\n")
    assert_ran(prelude("--launch", launch), "a file\n")


def test_mount_point_of_another_type_is_refused(
    prelude: Program, tmp_path: Path, source: Path
) -> None:
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    options = ["--rootfs", str(root), "--bind", f"{source}:/x"]
    launch = freeze(tmp_path / "launch", *options)
    remove(root / "x")
    (root / "x").write_text("")
    told = f"{source} is a directory and can't be mounted on /x, which is a file"
    assert_refused(prelude("--launch", launch), told)
    remove(root / "x")
    (root / "x").symlink_to("x")
    assert_refused(prelude("--launch", launch), "/x", "Too many levels of symbolic links")


def write_script(path: Path) -> None:
    remove(path)
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(0o755)


def make_directory(path: Path) -> None:
    remove(path)
    path.mkdir()


def write_zeros(path: Path) -> None:
    """Replace a file's content with zeros; keep the file's size and modification time."""
    status = path.stat()
    with path.open("wb") as file:
        file.truncate(status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_build_id(path: Path) -> None:
    """Change the build id in a program's ELF note, as a rebuild would; keep the file's size."""
    content = path.read_bytes()
    note = content.index(b"\x14\0\0\0\x03\0\0\0GNU\0") + 12
    path.write_bytes(content[:note] + os.urandom(20) + content[note + 20 :])


def break_headers(path: Path) -> None:
    """Make the ELF header refer to tables beyond the end of the file; keep the file's size."""
    with path.open("r+b") as file:
        file.seek(32)
        file.write(b"\xff" * 16)


RUNSC_CHANGES = {
    "of another build": (change_build_id, "another content of the same size"),
    "of broken headers": (break_headers, "another content of the same size"),
    "zeros": (write_zeros, "another content of the same size"),
    "closed": (lambda path: path.chmod(0o700), "has the mode 100700, but had 100755"),
    "not executable": (lambda path: path.chmod(0o644), "has the mode 100644, but had 100755"),
    "another": (write_script, "has 19 bytes, but had "),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes, but had "),
    "gone": (remove, "{path} does not exist on this machine any more"),
    "a directory": (make_directory, "{path} has "),
    "a link to nothing": (
        link_to("/nonexistent"),
        "{path} does not exist on this machine any more",
    ),
    "a link to another": (link_to("/bin/true"), "/bin/true has "),
}


@pytest.mark.parametrize("name", RUNSC_CHANGES)
@pytest.mark.sampled(4)
def test_changed_runsc_is_refused(prelude: Program, tmp_path: Path, name: str) -> None:
    runsc = tmp_path / "runsc"
    runsc.write_bytes(Path(shutil.which("runsc") or "").read_bytes())
    runsc.chmod(0o755)
    launch = freeze(tmp_path / "launch", "--runsc", str(runsc))
    change, says = RUNSC_CHANGES[name]
    change(runsc)
    told = says.format(path=runsc)
    assert_refused(prelude("--launch", launch), told, cause=OUTDATED)


def test_runsc_with_other_timestamps_is_accepted(prelude: Program, tmp_path: Path) -> None:
    """Check that a launch accepts a copy of runsc with another modification time.

    Image builders set the modification times of files to 0.
    """
    runsc = tmp_path / "runsc"
    shutil.copy(shutil.which("runsc") or "", runsc)
    launch = freeze(tmp_path / "launch", "--runsc", str(runsc))
    copy = shutil.copy(runsc, tmp_path / "copy")
    os.utime(copy, (0, 0))
    os.replace(copy, runsc)
    assert_ran(prelude("--launch", launch))


def test_runsc_that_execve_rejects_is_reported(prelude: Program, tmp_path: Path) -> None:
    """Check the error of a launch if execve(2) fails with ENOEXEC for runsc.

    The test fills runsc with zeros, and records their checksum in the launch file, so that no
    earlier check rejects the file.
    """
    runsc = tmp_path / "runsc"
    shutil.copy(shutil.which("runsc") or "", runsc)
    launch = freeze(tmp_path / "launch", "--runsc", str(runsc))
    write_zeros(runsc)
    with PathDescriptor.own(str(runsc), os.open, runsc, os.O_PATH) as opened:
        content = _core.content_sum(opened.fd)
    words = launch.read_bytes().split(b"\0")
    words[words.index(b"assume") + 4] = content.encode()
    launch.write_bytes(b"\0".join(words))
    done = prelude("--launch", launch)
    assert (done.returncode, done.stdout) == (125, "")
    assert "programs/runsc: Exec format error" in done.stderr
