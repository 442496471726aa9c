"""Opening a path that may not lead out of a directory, whoever changes what is in it meanwhile."""

from __future__ import annotations

import errno
import os
import stat

_LINKS_MAX = 40  # as in the kernel, path_resolution(7)


def open_beneath(directory: int, path: str) -> int:
    """Open `path` within `directory`, as openat2(2) does with RESOLVE_BENEATH, on any kernel.

    Every step goes from a descriptor to a name in it and follows no symbolic link; links are read
    and walked likewise, and ``..`` goes back to the descriptor that was come from. So no step can
    be led astray by who renames, or puts a link where a directory was.

    :param directory: a descriptor of the directory.
    :param path: a relative path.
    :returns: a descriptor of the file that was reached (O_PATH, close-on-exec), which is no
        symbolic link.
    :raises OSError: EXDEV if the path leads out of the directory; ELOOP, too many symbolic links;
        or what the kernel says of a step.
    """
    if path.startswith("/"):
        raise _error(errno.EXDEV, path)
    way = [_step(directory, ".")]
    try:
        _walk(way, path)
        return way.pop()
    finally:
        for descriptor in way:
            os.close(descriptor)


def _walk(way: list[int], path: str) -> None:
    """Go on from the last descriptor of `way`, to which those that are reached are added."""
    pending = [*reversed(path.split("/"))]
    links = 0
    while pending:
        name = pending.pop()
        # A name before a slash is a directory's, also where the slash is the last character.
        if name in ("", "."):
            if not stat.S_ISDIR(os.fstat(way[-1]).st_mode):
                raise _error(errno.ENOTDIR, path)
            continue
        if name == "..":
            if len(way) == 1:
                raise _error(errno.EXDEV, path)
            os.close(way.pop())
            continue
        reached = _step(way[-1], name)
        if not stat.S_ISLNK(os.fstat(reached).st_mode):
            way.append(reached)
            continue
        try:
            link = os.readlink("", dir_fd=reached)
        finally:
            os.close(reached)
        links += 1
        if links > _LINKS_MAX:
            raise _error(errno.ELOOP, path)
        if link.startswith("/"):
            raise _error(errno.EXDEV, path)
        pending += reversed(link.split("/"))


def _step(directory: int, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
