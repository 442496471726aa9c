"""Make the caller the owner of a test's files, so that pytest can remove them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
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
    if mark is not None and isinstance(path, Path) and _has_foreign(path):
        _take_back_inside(path, mark.idmap)


def _has_foreign(path: Path) -> bool:
    """Return whether `path`, or a file below, belongs or may belong to another user.

    Only root in the namespace can read a directory whose permissions the test has removed.
    """
    unreadable: list[OSError] = []
    try:
        return any(_foreign(path, os.geteuid(), unreadable.append)) or bool(unreadable)
    except FileNotFoundError:  # The test has removed `path`.
        return False
    except PermissionError:
        return True


def _foreign(
    path: Path, uid: int, onerror: Callable[[OSError], object] | None = None
) -> Iterator[tuple[int | None, str]]:
    """Yield directory descriptor and name of `path` and of each file below not owned by `uid`.

    :param onerror: a function that is called with the error of each unreadable directory below
        `path`.
    :raises OSError: `path` can't be read.
    """
    if os.stat(path, follow_symlinks=False).st_uid != uid:
        yield None, os.fspath(path)
    for _, directories, files, fd in os.fwalk(path, onerror=onerror):
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
