"""Walking a path by descriptors, and looking at who could change where it leads."""

from __future__ import annotations

import errno
import os
import stat

from usernsctl.opened import is_trusted

# As many as the kernel follows (path_resolution(7)).
_LINKS_MAX = 40

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


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
    walked = "/"
    here = os.open("/", _PATH | os.O_DIRECTORY)
    try:
        _check(os.fstat(here), walked)
        names = path.split("/")[::-1]
        links = 0
        while names:
            name = names.pop()
            if name in ("", "."):
                continue
            is_shared = bool(os.fstat(here).st_mode & 0o022)
            walked = os.path.join(walked, name)
            there = os.open(name, _PATH, dir_fd=here)
            try:
                status = os.fstat(there)
                if is_shared and name != ".." and not is_trusted(status.st_uid, walked):
                    raise _foreign(walked, status)
                if stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > _LINKS_MAX:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), walked)
                    target = os.readlink("", dir_fd=there)
                    names += target.split("/")[::-1]
                    walked = "/" if target.startswith("/") else os.path.dirname(walked)
                    if walked == "/":
                        os.close(there)
                        there = os.open("/", _PATH | os.O_DIRECTORY)
                        here, there = there, here
                    continue
                if not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), walked)
                _check(status, walked)
                here, there = there, here
            finally:
                os.close(there)
        here, found = -1, here
        return found
    finally:
        if here >= 0:
            os.close(here)


def _check(status: os.stat_result, walked: str) -> None:
    if not is_trusted(status.st_uid, walked):
        raise _foreign(walked, status)
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(status.st_mode)
        raise Untrusted(walked, f"can be written to by others (mode {mode:o})", writable=True)


def _foreign(walked: str, status: os.stat_result) -> Untrusted:
    return Untrusted(walked, f"belongs to uid {status.st_uid}", writable=False)
