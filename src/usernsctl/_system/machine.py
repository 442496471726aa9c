"""What acts on the machine itself: /proc, /sys and /dev, and filesystems that are like these."""

from __future__ import annotations

import os

from usernsctl._system.mounts import id_of as mount_id_of
from usernsctl._system.mounts import read as read_mounts

_TOPS = ("/proc", "/sys", "/dev")

# Filesystems that are the kernel's face, whatever they are mounted on.
_KERNEL = frozenset(
    (
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "mqueue", "nsfs", "proc", "pstore", "resctrl", "securityfs"),
        *("selinuxfs", "smackfs", "sysfs", "tracefs"),
    )
)


def machine_part(descriptor: int) -> str | None:
    """The part of the machine that would be seen where an open file is shown.

    That is the case if it is one of /proc, /sys and /dev, lies in one, by whatever path it was
    reached, or has one or a filesystem like these below it.

    :param descriptor: of the file, perhaps O_PATH.
    :returns: the path or type, such as ``"/proc"``; ``None`` if there is none.
    :raises OSError: /proc can't be read, so that it can't be told.
    """
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    for top in _TOPS:
        if f"{path}/".startswith(f"{top}/") or f"{top}/".startswith(f"{path.rstrip('/')}/"):
            return top
    mounts = read_mounts()
    own = mounts.get(mount_id_of(descriptor))
    if own is not None and own.kind in _KERNEL:
        return own.kind
    if _is_in_dev(os.fstat(descriptor).st_dev):
        return "/dev"
    below = (mount.kind for mount in mounts.values() if mount.point.startswith(f"{path}/"))
    return next((kind for kind in below if kind in _KERNEL), None)


def _is_in_dev(device: int) -> bool:
    """Whether a file lies in what is mounted on /dev, wherever else that is mounted."""
    try:
        dev = os.stat("/dev").st_dev
    except FileNotFoundError:
        return False
    return device == dev != os.stat("/").st_dev
