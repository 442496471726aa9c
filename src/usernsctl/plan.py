"""Planning: what is mapped, by whom, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from usernsctl import _core
from usernsctl.idmap import Extent, IdMap, SetgroupsPolicy

Writer = Literal["none", "self", "parent", "helper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An id map decided upon, with nothing started yet.

    :ivar uid: the extents of uids.
    :ivar gid: the extents of gids.
    :ivar uid_writer: who writes them: ``"self"`` (the process in the namespace: one id, its own),
        ``"parent"`` (a process outside that holds CAP_SETUID), ``"none"`` (nothing is mapped).
    :ivar gid_writer: the same for gids, with CAP_SETGID.
    :ivar uid_reason: why that writer.
    :ivar gid_reason: why that writer.
    :ivar setgroups: what is written to /proc/PID/setgroups; ``"auto"``: nothing.
    :ivar become: the uid and the gid that a command has inside; -1 where none of ours is mapped.
    :ivar drop_groups: whether the supplementary groups are dropped, since they belong to somebody
        that a command is not.
    """

    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]
    uid_writer: Writer
    gid_writer: Writer
    uid_reason: str
    gid_reason: str
    setgroups: SetgroupsPolicy
    become: tuple[int, int]
    drop_groups: bool
    native: object = field(repr=False, compare=False)

    def setup(self) -> _core.Setup:
        """What makes a process that is in the namespace who it should be there."""
        uid, gid = (None if inside < 0 else inside for inside in self.become)
        return _core.Setup(uid=uid, gid=gid, groups=() if self.drop_groups else None)


def plan(idmap: IdMap) -> Plan:
    """Decide how the calling process would get `idmap`. Nothing is started.

    :raises MapError: the kernel would refuse such a map (EINVAL in user_namespaces(7)).
    :raises PlanError: the caller may not have it; the cause says why.
    """
    result = _core.plan(
        (idmap.map_user, idmap.map_group),
        (idmap.map_users, idmap.map_groups),
        idmap.setgroups,
    )
    values = result._asdict()
    values["uid"] = tuple(Extent(*extent) for extent in result.uid)
    values["gid"] = tuple(Extent(*extent) for extent in result.gid)
    return Plan(**values)
