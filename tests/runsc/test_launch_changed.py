"""Tests of usernsctl-exec --launch on a host that has changed since the freeze."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program
from frozen import assert_ran, assert_refused, freeze

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


GONE = {
    "gone": (remove, "there is no {path} on this machine any more"),
    "a link": (link_to("/etc"), "{path} is a symbolic link; it was not when the launch was made"),
    "a link to nothing": (link_to("/nonexistent"), "{path} is a symbolic link"),
    "a link to itself": (link_to("source"), "{path} is a symbolic link"),
    "below a link": (replace_parent, "there is no {path} on this machine any more"),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "parent" / "source"
    path.mkdir(parents=True)
    (path / "file").write_text("content\n")
    return path


@pytest.mark.parametrize("name", GONE)
@pytest.mark.parametrize("how", ["--rootfs", "ro", "rw", "file"])
def test_a_source_is_not_there_any_more(
    usernsctl: Program, prelude: Program, tmp_path: Path, source: Path, name: str, how: str
) -> None:
    if how == "file":
        remove(source)
        source.write_text("content\n")
    access = "ro" if how == "file" else how
    options = ["--rootfs", source] if how == "--rootfs" else ["--bind", f"{source}:/x:{access}"]
    launch = freeze(usernsctl, tmp_path / "launch", *map(str, options))
    change, says = GONE[name]
    change(source)
    done = prelude("--launch", launch)
    told = says.format(path=source)
    assert_refused(done, f"{launch}: {told}", f"remedy: usernsctl freeze {options[0]}",
                   cause=OUTDATED)  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_a_root_filesystem_is_none_any_more(
    usernsctl: Program, prelude: Program, tmp_path: Path, source: Path, kind: str
) -> None:
    launch = freeze(usernsctl, tmp_path / "launch", "--rootfs", str(source))
    remove(source)
    source.write_text("") if kind == "file" else os.mkfifo(source)
    told = f"{source}, the root filesystem, is no directory any more"
    assert_refused(prelude("--launch", launch), told, cause=OUTDATED)


def test_a_source_of_another_kind_is_shown(
    usernsctl: Program, prelude: Program, tmp_path: Path, source: Path
) -> None:
    """Change the content and the type of a bind source, neither of which the launch records."""
    command = ("sh", "-c", "cat /x/file /x 2>/dev/null; :")
    options = ["--bind", f"{source}:/x"]
    launch = freeze(usernsctl, tmp_path / "launch", *options, command=command)
    assert_ran(prelude("--launch", launch), "content\n")
    (source / "file").write_text("new\n")
    assert_ran(prelude("--launch", launch), "new\n")
    remove(source)
    source.write_text("a file\n")
    assert_ran(prelude("--launch", launch), "a file\n")


def test_a_place_inside_that_does_not_fit_any_more(
    usernsctl: Program, prelude: Program, tmp_path: Path, source: Path
) -> None:
    root = tmp_path / "root"
    (root / "x").mkdir(parents=True)
    options = ["--rootfs", str(root), "--bind", f"{source}:/x"]
    launch = freeze(usernsctl, tmp_path / "launch", *options)
    remove(root / "x")
    (root / "x").write_text("")
    told = f"{source} is a directory, so it can't be mounted on /x, which is a file"
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


RUNSC = {
    "touched": (os.utime, "was changed at"),
    "closed": (lambda path: path.chmod(0o700), "has the mode 100700; it was 100755"),
    "not executable": (lambda path: path.chmod(0o644), "has the mode 100644; it was 100755"),
    "another": (write_script, "has 19 bytes; it had "),
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes; it had "),
    "gone": (remove, "there is no {path} on this machine any more"),
    "a directory": (make_directory, "{path} has "),
    "a link to nothing": (link_to("/nonexistent"), "there is no {path} on this machine any more"),
    "a link to another": (link_to("/bin/true"), "{path} has "),
}


@pytest.mark.parametrize("name", RUNSC)
def test_runsc_is_another_one(
    usernsctl: Program, prelude: Program, tmp_path: Path, name: str
) -> None:
    runsc = tmp_path / "runsc"
    runsc.write_bytes(Path(shutil.which("runsc") or "").read_bytes())
    runsc.chmod(0o755)
    launch = freeze(usernsctl, tmp_path / "launch", "--runsc", str(runsc))
    change, says = RUNSC[name]
    change(runsc)
    told = says.format(path=runsc)
    assert_refused(prelude("--launch", launch), str(runsc), told, cause=OUTDATED)


def test_runsc_that_is_none(usernsctl: Program, prelude: Program, tmp_path: Path) -> None:
    """Replace runsc by zeros of the same size and time: the check passes, and execve(2) fails."""
    runsc = tmp_path / "runsc"
    size = Path(shutil.which("runsc") or "").stat().st_size
    runsc.write_bytes(Path(shutil.which("runsc") or "").read_bytes())
    runsc.chmod(0o755)
    os.utime(runsc, ns=(10**18, 10**18))
    launch = freeze(usernsctl, tmp_path / "launch", "--runsc", str(runsc))
    with runsc.open("wb") as file:
        file.truncate(size)
    os.utime(runsc, ns=(10**18, 10**18))
    done = prelude("--launch", launch)
    assert (done.returncode, done.stdout) == (125, "")
    assert "programs/runsc: Exec format error" in done.stderr
