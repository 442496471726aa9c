"""Maps and plans."""

from __future__ import annotations

import os
from collections.abc import Iterable

from usernsctl._core.failures import check, reason_of, text_of
from usernsctl._core.memory import Memory
from usernsctl._core.records import ExtentTuple, IdRequest, PlanDescription, Setup
from usernsctl._native import ffi, lib
from usernsctl._typing import Any
from usernsctl.errors import MapError

#: How many subordinate ids useradd(8) grants to a user.
GRANT_COUNT: int = lib.UN_GRANT_COUNT

_SETGROUPS = {
    "auto": lib.UN_SETGROUPS_AUTO,
    "allow": lib.UN_SETGROUPS_ALLOW,
    "deny": lib.UN_SETGROUPS_DENY,
}
_FILLS = {
    "none": lib.UN_FILL_NONE,
    "auto": lib.UN_FILL_PACKED,
    "subids": lib.UN_FILL_IDENTITY,
    "all": lib.UN_FILL_ALL,
}
_SETGROUPS_NAME = {number: name for name, number in _SETGROUPS.items()}


def parse_extent(text: str) -> ExtentTuple:
    """Read ``inside:outside:count``.

    :raises MapError: it is none.
    """
    extent, err = ffi.new("struct un_extent *"), ffi.new("struct un_error *")
    # Only ASCII can be an extent; and C reads up to the first NUL, as if nothing came after it.
    native = text.encode("ascii", "backslashreplace").replace(b"\0", b"\\x00")
    check(lib.un_extent_parse(native, extent, err), err)
    return extent.inside, extent.outside, extent.count


def _fill_map(native: Any, extents: Iterable[Iterable[int]], err: Any) -> None:
    native.len = 0
    for inside, outside, count in extents:
        try:
            extent = ffi.new("struct un_extent *", (inside, outside, count))
        except (OverflowError, TypeError) as error:
            raise MapError(
                f"extent {inside}:{outside}:{count}: each must be a number from 0 to 4294967295",
                step="argument",
                cause="map-invalid",
            ) from error
        check(lib.un_map_add(ffi.addressof(native), extent[0], err), err)


def _extents(native: Any) -> tuple[ExtentTuple, ...]:
    return tuple((e.inside, e.outside, e.count) for e in native.extent[0 : native.len])


def _fill_request(native: Any, request: IdRequest, err: Any) -> None:
    if request.own is not None:
        if not 0 <= request.own < 2**32 - 1:
            reason = f"{request.own} is no id: it must be a number from 0 to 4294967294"
            raise MapError(reason, step="argument", cause="map-invalid")
        native.map_self, native.self = True, request.own
    native.fill = _FILLS[request.fill]
    _fill_map(native.more, request.more, err)


def _ranges(native: Any) -> tuple[tuple[int, int], ...]:
    return tuple((r.start, r.count) for r in native.range[0 : native.len])


def plan(uid: IdRequest, gid: IdRequest, *, setgroups: str, allow_single_id: bool) -> NativePlan:
    """Decide what is mapped, and who writes it, for the calling process.

    :param setgroups: ``"auto"``, ``"allow"`` or ``"deny"``.
    :param allow_single_id: whether to go on with the caller's own id where more can't be had.
    :raises MapError: an extent is malformed, or the map is one that the kernel refuses.
    :raises PlanError: the caller may not have this map.
    """
    request, facts = ffi.new("struct un_request *"), ffi.new("struct un_facts *")
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    sources, memory = ffi.new("struct un_sources *"), Memory()
    request.setgroups = _SETGROUPS[setgroups]
    request.allow_single_id = allow_single_id
    _fill_request(request.id[lib.UN_UID], uid, err)
    _fill_request(request.id[lib.UN_GID], gid, err)
    sources.path = memory.string(os.environb.get(b"PATH"))
    check(lib.un_plan_for_caller(request, sources, facts, result, err), err)
    return NativePlan(result, facts.notices, facts)


def free_ids(subuid: str, subgid: str) -> int | None:
    """Find the first of 65,536 ids that two files like /etc/subuid and /etc/subgid grant to nobody.

    They are behind all that anybody has: uids and gids get the same, as useradd(8) does it.

    :returns: ``None``: there are none, or a file that is there can't be read.
    """
    memory, first = Memory(), ffi.new("uint32_t *")
    paths = ffi.new("const char *[2]", [memory.string(subuid), memory.string(subgid)])
    return int(first[0]) if lib.un_subid_free(paths, first) else None


def setup_to_join(directory: int) -> Setup:
    """What makes a process who it should be in the user namespace of another one.

    :param directory: a descriptor of ``/proc/PID`` of that other process.
    :raises UsernsError: its maps can't be read, or mean nothing in our namespace.
    """
    result, err = ffi.new("struct un_plan *"), ffi.new("struct un_error *")
    check(lib.un_plan_to_join(directory, result, err), err)
    return NativePlan(result, None, None).setup()


class NativePlan:
    """A plan as the core has it. To tell what is in it costs more than to make use of it."""

    def __init__(self, result: Any, notices: Any, owner: Any) -> None:
        self.cdata = result
        self._notices = notices
        self._owner = owner  # `notices` is a part of it

    def setup(self) -> Setup:
        """What makes a process that is in the namespace who it should be there."""
        uid, gid = (None if inside < 0 else inside for inside in self.cdata.become)
        return Setup(uid=uid, gid=gid, groups=() if self.cdata.drop_groups else None)

    @property
    def single_id_reason(self) -> str | None:
        """Why there is one id only, where more were asked for."""
        return reason_of(ffi.addressof(self.cdata.wanted)) if self.cdata.single_id else None

    def describe(self) -> PlanDescription:
        plan, notices = self.cdata, self._notices
        return PlanDescription(
            uid=_extents(plan.map.of[lib.UN_UID]),
            gid=_extents(plan.map.of[lib.UN_GID]),
            uid_writer=text_of(lib.un_writer_name(plan.writer[lib.UN_UID])),
            gid_writer=text_of(lib.un_writer_name(plan.writer[lib.UN_GID])),
            uid_reason=text_of(plan.reason[lib.UN_UID]),
            gid_reason=text_of(plan.reason[lib.UN_GID]),
            setgroups=_SETGROUPS_NAME[plan.setgroups],
            become=(plan.become[lib.UN_UID], plan.become[lib.UN_GID]),
            drop_groups=plan.drop_groups,
            clipped_uid=_ranges(plan.clipped[lib.UN_UID]),
            clipped_gid=_ranges(plan.clipped[lib.UN_GID]),
            notices=tuple(text_of(notices.text[i]) for i in range(notices.len)),
            single_id_reason=self.single_id_reason,
        )
