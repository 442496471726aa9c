"""Mounts inside a prepared mount namespace, where they end with its last process."""

from __future__ import annotations

import contextlib
import errno
import os
import re

from usernsctl import _core
from usernsctl.errors import NamespaceError

# mount(2), linux/mount.h.
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_RELATIME = 0x200000

# The options of a mount point, as mountinfo (proc_pid_mountinfo(5)) names them.
_OPTION_FLAGS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
}


def mount_scratch(target: str) -> str:
    """Mount a new, empty tmpfs on the directory `target`.

    A recursive bind mount of a directory above leaves it out, and so shows what the tmpfs covers:
    what is mounted on `target` itself is unbindable (mount_namespaces(7)). Since nothing on that
    mount could be bound anywhere, the tmpfs to be used is one below it.

    :returns: the path of the empty directory to use.
    :raises NamespaceError: the kernel refused.
    """
    inner = f"{target}/usernsctl"
    _core.mount("usernsctl", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    _core.mount(None, target, None, MS_UNBINDABLE, None)
    os.mkdir(inner)
    _core.mount("usernsctl", inner, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755")
    return inner


def mount_own_proc() -> None:
    """See to it that /proc shows the PID namespace that this process is in.

    runsc finds its children there, by the numbers that they have for it.

    :raises NamespaceError: the kernel refused; in a container, since parts of its /proc are hidden.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return
    _core.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def mount_tmpfs(target: str, size: int) -> None:
    """Mount an empty tmpfs of `size` bytes on the directory `target`.

    :raises NamespaceError: the kernel refused.
    """
    _core.mount("usernsctl", target, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=0700,size={size}")


def bind(source: str, target: str) -> None:
    """Show `source` at `target`, with all that is mounted below it.

    Recursive, since in a namespace owned by a user namespace the kernel refuses to show a
    directory without the mounts that may hide something in it (mount_namespaces(7)).

    :param source: a directory, or another file.
    :param target: an existing one of the same kind.
    :raises NamespaceError: the kernel refused.
    """
    _core.mount(source, target, None, MS_BIND | MS_REC, None)


def make_read_only(top: str) -> None:
    """Make every mount below the directory `top`, and one on it, read-only.

    :param top: an absolute path without symbolic links.
    :raises NamespaceError: the kernel refused.
    """
    try:
        _core.mount_read_only(top)
    except NamespaceError as error:
        # Linux before 5.12, or a filter that does not know the call.
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise
        _remount_each(top)


def _remount_each(top: str) -> None:
    with open("/proc/self/mountinfo", "rb") as file:
        mountinfo = os.fsdecode(file.read())
    for mount_point, flags in mounts_below(top, mountinfo).items():
        if not flags & MS_RDONLY:
            # The other flags are given again: a remount clears those left out, and in a user
            # namespace clearing one that was inherited is refused (mount_namespaces(7)).
            try:
                _core.mount(None, mount_point, None, MS_BIND | MS_REMOUNT | MS_RDONLY | flags, None)
            except NamespaceError as error:
                # Below a directory that is closed to us, and so to everybody inside.
                if error.errno != errno.EACCES:
                    raise


def mounts_below(top: str, mountinfo: str) -> dict[str, int]:
    """The flags of each mount point; where several mounts are stacked, of the one to be seen."""
    found = {}
    for line in mountinfo.split("\n")[:-1]:
        fields = line.split(" ")
        mount_point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        if mount_point == top or mount_point.startswith(f"{top}/"):
            found[mount_point] = sum(_OPTION_FLAGS.get(name, 0) for name in fields[5].split(","))
    return found
