"""Functions that read /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

# mount(2), linux/mount.h.
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
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


def mounts_below(top: str, mountinfo: str) -> dict[str, int]:
    """Return the flags of each mount point below `top`; of stacked mounts, those of the topmost."""
    found = {}
    for line in mountinfo.split("\n")[:-1]:
        fields = line.partition(" - ")[0].split(" ")
        point, options = _plain(fields[4]), fields[5].split(",")
        if point == top or point.startswith(f"{top}/"):
            found[point] = sum(_OPTION_FLAGS.get(name, 0) for name in options)
    return found


def _plain(field: str) -> str:
    import re

    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
