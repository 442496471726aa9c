"""Tests of opening a path component by component, which must find the same file as the kernel."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from usernsctl._system.paths import PathDescriptor, open_beneath, open_path

NAMES = ("", ".", "..", "file", "directory", "link", "to-file", "shut", "none")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "file").touch()
    (tmp_path / "link").symlink_to("directory")
    (tmp_path / "to-file").symlink_to("file")
    (tmp_path / "shut").mkdir(0o600)
    return tmp_path


def outcome(opens: Callable[[], int]) -> tuple[int, int] | int | None:
    """Return the device and inode of the file that `opens` opens, or the errno of its failure."""
    try:
        fd = opens()
    except OSError as error:
        return error.errno
    status = os.fstat(fd)
    os.close(fd)
    return status.st_dev, status.st_ino


@pytest.mark.also_root
def test_open_path_resolves_like_the_kernel(top: Path) -> None:
    for names in itertools.product(NAMES, repeat=3):
        path = "/".join([str(top), *names])
        wanted = outcome(functools.partial(os.open, path, os.O_PATH))
        assert outcome(lambda path=path: open_path(path).detach()) == wanted, path


@pytest.mark.parametrize("end", ["/..", "/../file", "/.", "/"])
def test_path_beneath_a_file_raises_notadirectoryerror(top: Path, end: str) -> None:
    directory = os.open(top, os.O_PATH)
    try:
        with pytest.raises(NotADirectoryError):
            open_beneath(directory, f"file{end}")
    finally:
        os.close(directory)


def test_descriptor_whose_constructor_was_interrupted_is_dropped() -> None:
    """Check that __del__() works after an interrupted __init__(); a warning would fail the test."""
    PathDescriptor.__new__(PathDescriptor)
