"""Walking a path by descriptors, and looking at who could change where it leads."""

from __future__ import annotations

import errno
import os
import stat

from usernsctl import opened
from usernsctl.opened import Opened, is_trusted


class Untrusted(Exception):
    """Somebody else can replace what a path leads to.

    :ivar directory: where.
    :ivar writable: whether that is because of its mode, and not of its owner.
    """

    def __init__(self, directory: str, why: str, *, writable: bool) -> None:
        super().__init__(f"{directory} {why}")
        self.directory = directory
        self.writable = writable


def open_trusted(path: str) -> int:
    """Open a directory, if nobody else can make its path lead elsewhere.

    In each directory on the way, those that links lead through included, nobody may write but the
    user and root; or else it is sticky (as /tmp is), and what is on the way there is theirs.

    :param path: an absolute path.
    :returns: a descriptor that is good for use as ``dir_fd`` (O_PATH), the caller's to close.
    :raises Untrusted: somebody else can.
    :raises OSError: there is no such directory, or it can't be reached.
    """
    trail = [opened.root()]
    try:
        _check(trail[0])
        opened.walk(path, trail, _look)
        return trail.pop().detach()
    finally:
        for passed in trail:
            passed.close()


def _look(trail: list[Opened], name: str) -> Opened | str:
    """What the path goes on with, if nobody else can have put it there."""
    is_shared = bool(trail[-1].status.st_mode & 0o022)
    found = trail[-1].child(name)
    if is_shared and not is_trusted(found.status.st_uid, found.path):
        raise _foreign(found)
    if found.is_link:
        return found.link
    if not found.is_directory:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), found.path)
    _check(found)
    return found


def _check(directory: Opened) -> None:
    status = directory.status
    if not is_trusted(status.st_uid, directory.path):
        raise _foreign(directory)
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        why = f"can be written to by others (mode {mode:o})"
        raise Untrusted(directory.path, why, writable=True)


def _foreign(found: Opened) -> Untrusted:
    return Untrusted(found.path, f"belongs to uid {found.status.st_uid}", writable=False)
