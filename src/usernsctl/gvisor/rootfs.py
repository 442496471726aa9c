"""The root filesystem of a sandbox: what is shown, what is hidden, and what never may be shown.

As root, runsc could read all files in a directory that is shown, and also those that are made or
replaced later: a new /etc/shadow is a new file, which nothing has hidden. So a directory with
private files is shown as a copy of what every user may read, as it is now.

What never may be shown is the state directory, which tells us what to end and what to join. A
program inside that could write there would have others' processes ended, and one that could read
there would see what others' sandboxes were given.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from usernsctl._records import dataclass
from usernsctl._system.mounts import Mount
from usernsctl._system.mounts import id_of as mount_id_of
from usernsctl._system.mounts import read as read_mounts
from usernsctl._system.opened import Opened
from usernsctl.errors import BundleError

# What a program needs that is installed on this machine, and little else.
SHOWN = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "usr")

# What a program expects to be there; all other data of the machine is left out.
EMPTY = {
    "dev": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "run/lock": 0o1777,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var": 0o755,
    "var/cache": 0o755,
    "var/lib": 0o755,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}
LINKS = {"var/run": "/run", "var/lock": "/run/lock"}

_PATH = os.O_PATH | os.O_CLOEXEC


def refuse_state(sources: Mapping[str, Opened], state: str) -> None:
    """Refuse to show what holds the state directory, or lies in it.

    :param sources: what is to be shown, by the names that it was asked for by.
    :param state: the path of the state directory, which need not be there yet.
    :raises BundleError: one does (cause ``bind-shows-state``). It is told by what it is, not by its
        name: by a link or another mount, it is the same directory.
    """
    if not sources:
        return
    ours, is_there = _nearest(state)
    try:
        mounts = read_mounts()
        kept = _Place.of(ours, mounts)
        for name, source in sources.items():
            shown = _Place.of(source.fd, mounts)
            if _is_above(source.fd, ours) or shown.shows(kept, mounts):
                raise _refusal(name, "holds", state)
            if is_there and kept.holds(shown):
                raise _refusal(name, "is in", state)
    finally:
        os.close(ours)


def _refusal(source: str, how: str, state: str) -> BundleError:
    return BundleError(
        f"{source} can't be shown: it {how} {state}, which is for usernsctl and runsc alone",
        step="bind",
        filename=source,
        cause="bind-shows-state",
        remedy="show only what is needed of it, or name a directory elsewhere for these "
        "(--root, --debug-log, XDG_RUNTIME_DIR)",
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where something is: `path` in this process's tree, and `inner` in a file system."""

    device: str
    inner: str
    path: str

    @classmethod
    def of(cls, fd: int, mounts: dict[int, Mount]) -> _Place:
        path = os.readlink(f"/proc/self/fd/{fd}")
        mount = mounts.get(mount_id_of(fd))
        if mount is None:  # of another mount namespace
            return cls("", path, path)
        return cls(mount.device, _joined(mount.root, path, mount.point), path)

    def holds(self, other: _Place) -> bool:
        """Whether `other` is the same, or below it in the same file system."""
        return self.device == other.device and _is_below(other.inner, self.inner)

    def shows(self, other: _Place, mounts: dict[int, Mount]) -> bool:
        """The same, with what is mounted below it."""
        below = [
            _Place(mount.device, mount.root, mount.point)
            for mount in mounts.values()
            if _is_below(mount.point, self.path)
        ]
        return any(place.holds(other) for place in (self, *below))


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top.rstrip("/") + "/")


def _joined(root: str, path: str, point: str) -> str:
    rest = path.removeprefix(point.rstrip("/")).lstrip("/")
    return f"{root.rstrip('/')}/{rest}".rstrip("/") or "/"


def _nearest(path: str) -> tuple[int, bool]:
    """The directory `path`, or the closest one above it if there is none yet.

    :returns: a descriptor, and whether it is that directory.
    """
    is_there = True
    while True:
        with contextlib.suppress(OSError):
            return os.open(path, _PATH | os.O_DIRECTORY), is_there
        path, is_there = os.path.dirname(path), False


def _open_above(directory: int) -> int:
    """The directory that one is in."""
    try:
        return os.open("..", _PATH, dir_fd=directory)
    except PermissionError:
        # It is somebody else's, who lets nobody in; what is above it lets us.
        path = os.readlink(f"/proc/self/fd/{directory}")
        return os.open(os.path.dirname(path), _PATH | os.O_DIRECTORY)


def _is_above(upper: int, lower: int) -> bool:
    """Whether `upper` is the directory `lower`, or one on the way to it."""
    wanted = os.fstat(upper)
    here = os.dup(lower)
    try:
        while True:
            status = os.fstat(here)
            if os.path.samestat(status, wanted):
                return True
            above = _open_above(here)
            os.close(here)
            here = above
            if os.path.samestat(os.fstat(here), status):
                return False
    finally:
        os.close(here)
