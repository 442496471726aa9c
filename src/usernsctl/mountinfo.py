"""What /proc/self/mountinfo says (proc_pid_mountinfo(5)), and which mount a descriptor is of."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass


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
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
