"""Tests of the activity file, whose lock shows that a command is running. They start no sandbox."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import open_descriptors

from usernsctl.gvisor.agent import activity
from usernsctl.gvisor.agent.activity import Activity
from usernsctl.gvisor.sandbox.records import open_activity


@contextlib.contextmanager
def open_as_watcher(path: Path) -> Iterator[int]:
    """Yield a descriptor of the activity file, opened as a watcher opens it."""
    fd = os.open(path / "activity", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def start_activity(path: Path) -> Activity:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        file = open_activity("activity", directory)
    finally:
        os.close(directory)
    assert file is not None
    return Activity(file)


def is_running(watcher: int) -> bool:
    try:
        fcntl.flock(watcher, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(watcher, fcntl.LOCK_UN)
    return False


def test_activity_lock_is_held_until_end(tmp_path: Path) -> None:
    before = open_descriptors()
    with open_as_watcher(tmp_path) as watcher:
        running = start_activity(tmp_path)
        assert is_running(watcher)
        earliest = time.monotonic_ns()
        running.end()
        assert earliest <= os.fstat(watcher).st_mtime_ns <= time.monotonic_ns()
        assert not is_running(watcher)
        running.end()
    assert open_descriptors() == before


def test_end_in_two_threads_touches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that end(), called in two threads, changes no file that is opened in between.

    Such a file may get the descriptor number that the activity file had.
    """
    utime = os.utime
    others: list[int] = []

    def change_late(fd: int, **times: Any) -> None:
        monkeypatch.setattr(activity.os, "utime", utime)
        running.end()
        # Open new files: if end() has already closed the activity file, one of the new files gets
        # the activity file's descriptor number.
        for name in ("one", "two", "three"):
            others.append(os.open(tmp_path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC))
        utime(fd, **times)

    with open_as_watcher(tmp_path):
        running = start_activity(tmp_path)
        monkeypatch.setattr(activity.os, "utime", change_late)
        begun = time.time_ns() - 10**9
        running.end()
        for other in others:
            assert os.fstat(other).st_mtime_ns >= begun
            os.close(other)


def test_interrupted_end_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(fd: int, **times: Any) -> None:
        # Duplicate the descriptor, as fork(2) does: the copy keeps the lock unless end() releases
        # it explicitly.
        copies.append(os.dup(fd))
        raise KeyboardInterrupt

    copies: list[int] = []
    before = open_descriptors()
    with open_as_watcher(tmp_path) as watcher:
        running = start_activity(tmp_path)
        monkeypatch.setattr(activity.os, "utime", interrupt)
        with pytest.raises(KeyboardInterrupt):
            running.end()
        assert not is_running(watcher)
        os.close(copies[0])
    assert open_descriptors() == before


def test_locked_file_does_not_block_a_command(tmp_path: Path) -> None:
    with open_as_watcher(tmp_path) as watcher:
        fcntl.flock(watcher, fcntl.LOCK_EX)
        begun = time.monotonic()
        running = start_activity(tmp_path)
        assert time.monotonic() - begun < 10
        running.end()


def test_missing_activity_file_is_none(tmp_path: Path) -> None:
    with open_as_watcher(tmp_path) as file:
        for directory in (-1, file):
            assert open_activity("activity", directory) is None
    (tmp_path / "activity").unlink()
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    assert open_activity("activity", directory) is None
    os.close(directory)
