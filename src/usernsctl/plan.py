"""Planning: what is mapped, by whom, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from usernsctl import _core
from usernsctl.idmap import Extent, IdMap, SetgroupsPolicy

Writer = Literal["none", "self", "parent", "helper"]


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """`count` ids from `start` on."""

    start: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An id map decided upon, with nothing started yet.

    :ivar uid: the extents of uids.
    :ivar gid: the extents of gids.
    :ivar uid_writer: who writes them: ``"self"`` (the process in the namespace: one id, its own),
        ``"parent"`` (a process outside that holds CAP_SETUID), ``"helper"`` (newuidmap, as
        /etc/subuid grants), ``"none"`` (nothing is mapped).
    :ivar gid_writer: the same for gids, with CAP_SETGID, newgidmap and /etc/subgid.
    :ivar uid_reason: why that writer.
    :ivar gid_reason: why that writer.
    :ivar setgroups: what is written to /proc/PID/setgroups; ``"auto"``: nothing.
    :ivar become: the uid and the gid that a command has inside; -1 where none of ours is mapped.
    :ivar drop_groups: whether the supplementary groups are dropped, since they belong to somebody
        that a command is not.
    :ivar clipped_uid: the subordinate uids that are left out, since they do not exist in the user
        namespace that we are in.
    :ivar clipped_gid: the same for gids.
    :ivar notices: what else is worth knowing of the subordinate ranges, a sentence each.
    :ivar single_id_reason: why only one id is mapped, where `allow_single_id` was made use of.
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
    clipped_uid: tuple[Range, ...]
    clipped_gid: tuple[Range, ...]
    notices: tuple[str, ...]
    single_id_reason: str | None
    native: _core.NativePlan = field(repr=False, compare=False)


def plan(idmap: IdMap) -> Plan:
    """Decide how the calling process would get `idmap`. Nothing is started.

    :raises MapError: the kernel would refuse such a map (EINVAL in user_namespaces(7)).
    :raises PlanError: the caller may not have it; the cause says why.
    """
    native = decide(idmap)
    result = native.describe()
    values = result._asdict()
    values["uid"] = tuple(Extent(*extent) for extent in result.uid)
    values["gid"] = tuple(Extent(*extent) for extent in result.gid)
    values["clipped_uid"] = tuple(Range(*ids) for ids in result.clipped_uid)
    values["clipped_gid"] = tuple(Range(*ids) for ids in result.clipped_gid)
    return Plan(**values, native=native)


def decide(idmap: IdMap) -> _core.NativePlan:
    """The same, for who only wants to make use of it."""
    return _core.plan(
        _core.IdRequest(idmap.map_user, idmap.map_users, idmap.fill_users),
        _core.IdRequest(idmap.map_group, idmap.map_groups, idmap.fill_groups),
        setgroups=idmap.setgroups,
        allow_single_id=idmap.allow_single_id,
    )
