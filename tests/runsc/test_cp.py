"""Tests of ``usernsctl cp``, which copies files into and out of detached sandboxes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import usernsctl as un

pytestmark = pytest.mark.usefixtures("runtime")

Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def box(host: un.SandboxHost, runtime: Path) -> Iterator[un.Sandbox]:
    with host.start(["sleep", "1000"], id="box", detach=True) as made:
        yield made


@pytest.fixture
def cp(usernsctl: Any, tmp_path: Path) -> Call:
    def call(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        done = usernsctl("cp", *args, env=dict(os.environ), cwd=tmp_path, **options)
        assert isinstance(done, subprocess.CompletedProcess)
        return done

    return call


def assert_success(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_cp_copies_a_file_in_and_out(box: un.Sandbox, cp: Call, tmp_path: Path) -> None:
    (tmp_path / "a:b").write_text("content")
    assert_success(cp("./a:b", "box:/tmp/file"))
    assert box.read_file("/tmp/file") == b"content"
    # The destination is a directory, so the copy keeps the source's name.
    assert_success(cp("./a:b", "box:/tmp"))
    assert box.read_file("/tmp/a:b") == b"content"
    assert_success(cp("box:/tmp/file", "copy"))
    (tmp_path / "dir").mkdir()
    assert_success(cp("box:/tmp/file", "dir"))
    assert (tmp_path / "copy").read_text() == (tmp_path / "dir" / "file").read_text() == "content"


def test_cp_copies_a_tree_in_and_out(box: un.Sandbox, cp: Call, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "file").write_text("content")
    assert cp("tree", "box:/tmp/new/tree").returncode == 125
    assert_success(cp("-p", "tree", "box:/tmp/new/tree"))
    assert_success(cp("box:/tmp/new/tree", "back"))
    assert (tmp_path / "back" / "sub" / "file").read_text() == "content"
    again = cp("tree", "box:/tmp/new")
    assert again.returncode == 125
    assert "inside: /tmp/new/tree in the sandbox box: File exists" in again.stderr
    (tmp_path / "tree" / "sub" / "file").write_text("changed")
    assert_success(cp("--force", "tree", "box:/tmp/new"))
    assert box.read_file("/tmp/new/tree/sub/file") == b"changed"
    again = cp("box:/tmp/new/tree", "back")
    assert_success(again)
    assert (tmp_path / "back" / "tree" / "sub" / "file").read_text() == "changed"
    # The copy gets the name of the directory "tree", not of the path's last component.
    (tmp_path / "dir").mkdir()
    assert_success(cp("box:/tmp/new/tree/.", "dir"))
    assert (tmp_path / "dir" / "tree" / "sub" / "file").read_text() == "changed"


def test_cp_prints_skipped_files(box: un.Sandbox, cp: Call, tmp_path: Path) -> None:
    box.run(["sh", "-c", "mkdir /tmp/t; cd /tmp/t; mkfifo 'a\nb'; ln -s /etc out"], check=True)
    done = cp("box:/tmp/t", "t")
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == [
        "usernsctl: skipped a\\nb: a FIFO",
        "usernsctl: skipped out: a symbolic link that leads out of the tree",
    ]
    assert os.listdir(tmp_path / "t") == []


@pytest.mark.thorough
def test_options_set_limits_and_user(box: un.Sandbox, cp: Call, tmp_path: Path) -> None:
    box.write_file("/tmp/file", b"12345", 0o600)
    assert "max_bytes=4" in cp("--max-bytes", "4", "box:/tmp/file", "x").stderr
    assert "max_files=0" in cp("--max-files=0", "box:/tmp/file", "x").stderr
    assert "more than 0.001 seconds" in cp("--timeout", "0.001s", "box:/tmp/file", "x").stderr
    assert not (tmp_path / "x").exists()
    assert_success(cp("--user", "0:0", "box:/tmp/file", "x"))
    assert_success(cp("--user", "root", "box:/tmp/file", "y"))
    refused = cp("--user", "nobody-here", "box:/tmp/file", "z")
    assert refused.returncode == 125
    assert "[user-unknown]" in refused.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["a", "b"], "one of SRC and DST must be NAME:PATH"),
        (["box:/a", "box:/b"], "one of SRC and DST must be NAME:PATH"),
        (["a", "box:b"], "is not an absolute path"),
        (["-f", "box:/a", "b"], "apply only to copies into a sandbox"),
        (["--user", "no:such:user", "a", "box:/b"], "is not UID[:GID] or NAME[:GROUP]"),
        (["--max-bytes", "-1", "a", "box:/b"], "is not a whole number"),
        (["a"], "missing: DST"),
    ],
)
def test_invalid_arguments_are_refused(cp: Call, args: list[str], message: str) -> None:
    done = cp(*args)
    assert (done.returncode, done.stdout) == (125, "")
    assert message in done.stderr


def test_errors_name_the_host_or_the_sandbox(box: un.Sandbox, cp: Call) -> None:
    for args, message in (
        (["missing", "box:/tmp/x"], "/missing: No such file or directory"),
        (["box:/tmp/missing", "x"], "inside: /tmp/missing in the sandbox box: No such file"),
        (["box:/etc/hostname", "no/where"], "No such file or directory"),
    ):
        done = cp(*args)
        assert (done.returncode, done.stdout) == (125, "")
        assert message in done.stderr


def test_a_missing_sandbox_is_reported_by_name(cp: Call) -> None:
    done = cp("/etc/hostname", "nobody:/tmp/x")
    assert done.returncode == 125
    assert "nobody" in done.stderr
