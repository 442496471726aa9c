"""Make the caller the owner of a test's files, so that pytest can remove them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from usernsctl._system.target import make_target
from usernsctl.errors import UsernsError
from usernsctl.maps import IdMap, plan
from usernsctl.pytest_plugin.child import Channel, fork, leave
from usernsctl.pytest_plugin.marks import wanted


def take_back(item: pytest.Item) -> None:
    """Make the caller the owner of all files in the ``tmp_path`` of a test.

    A process in a user namespace with the test's id map calls chown(2), because the caller itself
    may not.
    """
    mark, path = wanted(item), getattr(item, "funcargs", {}).get("tmp_path")
    if mark is not None and isinstance(path, Path) and any(_foreign(path, os.geteuid())):
        _take_back_inside(path, mark.idmap)


def _foreign(path: Path, uid: int) -> Iterator[tuple[int, str]]:
    """Yield directory descriptor and name of each file below `path` whose owner is not `uid`."""
    for _, directories, files, fd in os.fwalk(path):
        for name in (*directories, *files):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(name, dir_fd=fd, follow_symlinks=False).st_uid != uid:
                    yield fd, name


def _take_back_inside(path: Path, idmap: IdMap) -> None:
    # Ignore errors, because pytest itself reports files that it can't delete.
    with contextlib.suppress(UsernsError):
        planned = plan(idmap)
        target = make_target((), planned=planned)
        process = fork()
        if isinstance(process, Channel):
            with contextlib.suppress(Exception):
                target.enter()
                for fd, name in _foreign(path, os.geteuid()):
                    with contextlib.suppress(OSError):
                        own = os.geteuid(), os.getegid()
                        os.chown(name, *own, dir_fd=fd, follow_symlinks=False)
            leave(process, {})
        with contextlib.closing(process):
            next(process.messages())
