"""What the prepared namespace can reach of the filesystem, judged from outside it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from usernsctl.idmap import Extent
from usernsctl.oci.ids import IdView

WRITE, SEARCH = 2, 1


@dataclass(frozen=True, slots=True)
class Reach:
    """The rights of 0:0 in a namespace with these ids, whose map is seen from outside.

    In its own user namespace, root overrides the mode of exactly those files whose owner *and*
    group are mapped (the kernel's capable_wrt_inode_uidgid()); to all others it is the outside
    id that 0 stands for.
    """

    ids: IdView

    def blocked_at(self, path: str, need: int) -> str | None:
        """The first directory on the way to `path` that can't be searched, or `path` itself
        if it lacks a right of `need`; ``None`` if nothing stands in the way.

        What the caller can't see itself isn't judged: the namespace may have more ids.

        :raises OSError: `path` doesn't exist, or a file is taken for a directory.
        """
        way = os.path.realpath(path)
        with contextlib.suppress(PermissionError):  # told by the directory that is in the way
            os.stat(way)
        try:
            for directory in _ancestors(way):
                if not self._allows(directory, SEARCH):
                    return directory
            return None if self._allows(way, need) else way
        except PermissionError:
            return None

    def _allows(self, path: str, need: int) -> bool:
        status = os.stat(path)
        uid_map, gid_map = self.ids.uid_map, self.ids.gid_map
        if _maps(uid_map, status.st_uid) and _maps(gid_map, status.st_gid):
            return True
        uid, gid = _outside_root(uid_map), _outside_root(gid_map)
        if uid == os.geteuid() != 0:
            # Root inside is the caller outside, so the kernel can be asked; it also knows
            # what the mode doesn't tell: ACLs, and supplementary groups.
            return os.access(path, need)
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        return (stat.S_IMODE(status.st_mode) >> shift) & need == need


def _maps(extents: Sequence[Extent], outside: int) -> bool:
    return any(e.outside <= outside < e.outside + e.count for e in extents)


def _outside_root(extents: Sequence[Extent]) -> int | None:
    """The id outside that 0 inside stands for."""
    return next((e.outside for e in extents if e.inside == 0), None)


def _ancestors(path: str) -> list[str]:
    parts = path.split("/")[1:-1]
    return ["/", *("/" + "/".join(parts[: end + 1]) for end in range(len(parts)))]
