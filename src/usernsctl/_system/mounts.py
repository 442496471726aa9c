"""What /proc/self/mountinfo says (proc_pid_mountinfo(5)), and which mount a descriptor is of."""

from __future__ import annotations

import contextlib
import os

from usernsctl import _core
from usernsctl._records import dataclass


@dataclass(frozen=True, slots=True)
class Mount:
    """Which directory of which file system is where.

    :ivar device: of the file system, ``"MAJOR:MINOR"``.
    :ivar root: the directory of it that is mounted.
    :ivar point: where, as this process sees it.
    :ivar options: of the mount point, such as ``"ro"``.
    :ivar kind: the type of the file system, such as ``"proc"``.
    """

    id: int
    device: str
    root: str
    point: str
    options: tuple[str, ...]
    kind: str


def parse(text: str) -> list[Mount]:
    """All mounts of a mountinfo, in its order: those that cover others come later."""
    found = []
    for line in text.split("\n")[:-1]:
        fields, _, more = line.partition(" - ")
        number, _, device, root, point, options, *_ = fields.split(" ")
        found.append(
            Mount(
                id=int(number),
                device=device,
                root=_plain(root),
                point=_plain(point),
                options=tuple(options.split(",")),
                kind=more.partition(" ")[0],
            )
        )
    return found


def read() -> dict[int, Mount]:
    """All mounts that this process sees, by their ids.

    :raises OSError: /proc can't be read.
    """
    with open("/proc/self/mountinfo", "rb") as file:
        return {mount.id: mount for mount in parse(os.fsdecode(file.read()))}


def id_of(descriptor: int) -> int:
    """The id of the mount that an open file was reached by.

    :param descriptor: of the file, perhaps O_PATH.
    :raises OSError: /proc can't be read.
    """
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def _plain(field: str) -> str:
    if "\\" not in field:
        return field
    import re

    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)


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


def mount_own_proc() -> None:
    """See to it that /proc shows the PID namespace that this process is in.

    runsc finds its children there, by the numbers that they have for it.

    :raises NamespaceError: the kernel refused; in a container, since parts of its /proc are hidden.
    """
    with contextlib.suppress(FileNotFoundError):
        if os.readlink("/proc/self") == str(os.getpid()):
            return
    _core.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)


def mounts_below(top: str, mountinfo: str) -> dict[str, int]:
    """The flags of each mount point; where several mounts are stacked, of the one to be seen."""
    found = {}
    for mount in parse(mountinfo):
        if mount.point == top or mount.point.startswith(f"{top}/"):
            found[mount.point] = sum(_OPTION_FLAGS.get(name, 0) for name in mount.options)
    return found
