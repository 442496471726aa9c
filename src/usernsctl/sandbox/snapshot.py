"""A copy of what every user may read in a directory, as it is now.

As root, runsc could read all files there, and also those that are made or replaced later: a new
/etc/shadow is a new file, which nothing has hidden.
"""

from __future__ import annotations

import os
import stat

from usernsctl import mounts
from usernsctl.mounts import ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY
from usernsctl.opened import Opened

# A file that is bigger is no copy, but bound: what takes its name later is another one, too.
_FILE_MAX = 1 << 20
# What is copied in all; the files after that are bound.
_TOTAL_MAX = 32 << 20

_BOUND = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV


class Snapshot:
    """Copies directories to a file system of ours, up to a limit in all."""

    def __init__(self) -> None:
        self._left = _TOTAL_MAX

    def copy(self, source: Opened, target: Opened) -> None:
        """Copy what is in the directory `source`, and below.

        Of a file or directory that not everybody may read there is an empty one. Modes are kept,
        and symbolic links; devices, pipes and sockets are left out.

        :param target: an empty directory.
        :raises OSError: the caller can't read it, or there is no space.
        """
        for found in source.entries():
            name = os.path.basename(found.path)
            mode = found.status.st_mode
            if stat.S_ISLNK(mode):
                os.symlink(found.link, name, dir_fd=target.fd)
            elif stat.S_ISDIR(mode):
                os.mkdir(name, 0o700, dir_fd=target.fd)
                made = target.child(name)
                if is_public(mode):
                    self.copy(found, made)
                made.set_mode(mode)
            elif stat.S_ISREG(mode):
                self._copy_file(found, target, name)

    def _copy_file(self, source: Opened, directory: Opened, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        out = os.open(name, flags, 0o600, dir_fd=directory.fd)
        try:
            status = source.status
            if is_public(status.st_mode):
                if status.st_size <= min(_FILE_MAX, self._left):
                    self._left -= _copy(source, out)
                else:
                    mounts.bind(source, directory.child(name), _BOUND)
                    return
            os.fchmod(out, stat.S_IMODE(status.st_mode))
        finally:
            os.close(out)


def is_public(mode: int) -> bool:
    """Whether every user may read a file, or list and enter a directory, of this mode."""
    wanted = 0o005 if stat.S_ISDIR(mode) else 0o004
    return mode & wanted == wanted


def _copy(source: Opened, out: int) -> int:
    """Copy what every user may read by now; returns how many bytes that was."""
    copied = 0
    file = source.open()
    try:
        # It may have been closed to others since.
        if is_public(os.fstat(file).st_mode):
            while copied < _FILE_MAX and (count := os.sendfile(out, file, None, _FILE_MAX)):
                copied += count
    finally:
        os.close(file)
    return copied
