"""Requests for id maps, and the core's plans for writing them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from usernsctl import _core
from usernsctl._lean import Any, Literal, Self, dataclass, field, fields

SetgroupsPolicy = Literal["auto", "allow", "deny"]
Fill = Literal["none", "auto", "subids", "all"]

_FILLS = ("none", "auto", "subids", "all")


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A line of an id map: `count` ids from `inside` on, mapped to `outside` (user_namespaces(7)).

    :ivar int inside: the first id in the new namespace, from 0 to 4294967294.
    :ivar int outside: the id in the parent namespace to which `inside` is mapped, in the same
        range.
    :ivar int count: the number of ids, at least 1.
    """

    inside: int
    outside: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Extent:
        """Parse ``inside:outside:count``, three decimal numbers, as unshare(1) does.

        :raises MapError: `text` is malformed, or is an extent that every kernel rejects.
        """
        return cls(*_core.parse_extent(text))

    def has(self, inside: int, count: int = 1) -> bool:
        """Return whether the extent maps all of the `count` ids from `inside` on."""
        return self.inside <= inside and inside + count <= self.inside + self.count

    def has_outside(self, outside: int) -> bool:
        """Return whether the extent maps an id to the id `outside` of the parent namespace."""
        return 0 <= outside - self.outside < self.count

    def __iter__(self) -> Iterator[int]:
        return iter((self.inside, self.outside, self.count))

    def __str__(self) -> str:
        return f"{self.inside}:{self.outside}:{self.count}"


def parse_map(text: str) -> tuple[Extent, ...]:
    """Parse the content of /proc/PID/uid_map or gid_map (user_namespaces(7))."""
    return tuple(Extent(*map(int, line.split())) for line in text.splitlines())


#: The argument for an extent: an Extent, a tuple of its numbers, or a string
#: ``"inside:outside:count"``.
AnyExtent = Extent | tuple[int, int, int] | str


def _extents(given: Iterable[AnyExtent]) -> tuple[Extent, ...]:
    if isinstance(given, str):
        raise TypeError(f"an extent must be in a list, as in [{given!r}]")
    return tuple(Extent.parse(e) if isinstance(e, str) else Extent(*e) for e in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """A request for an id map. :func:`usernsctl.plan` computes the extents.

    An id is a number from 0 to 4294967294. :func:`usernsctl.plan`, and functions that start a
    command, raise :class:`usernsctl.MapError` for any other number.

    :ivar map_user: the uid inside to which the caller's uid is mapped; ``None`` to leave the
        caller's uid unmapped.
    :ivar map_group: the gid inside to which the caller's gid is mapped; ``None`` to leave the
        caller's gid unmapped.
    :ivar map_users: additional extents of uids.
    :ivar map_groups: additional extents of gids.
    :ivar fill_users: which other uids to map: ``"none"``; ``"auto"`` for all subordinate uids of
        the caller (subuid(5)), mapped to the free ids from 0 on; ``"subids"`` for the subordinate
        uids, each mapped to itself; ``"all"`` for all uids of the caller's user namespace, each
        mapped to itself.
    :ivar fill_groups: which other gids to map; see `fill_users` (subgid(5)).
    :ivar setgroups: whether setgroups(2) is permitted inside: ``"allow"``, ``"deny"``, or
        ``"auto"`` to deny setgroups(2) only where the kernel requires that (user_namespaces(7),
        "The /proc/PID/setgroups file").
    :ivar bool allow_single_id: whether to map only the caller's own id, and issue a
        :class:`usernsctl.SingleIdWarning`, if the other ids can't be mapped. If false,
        :class:`usernsctl.PlanError` is raised in that case.
    :raises ValueError: `setgroups`, `fill_users` or `fill_groups` has an unknown value.
    :raises MapError: an extent is malformed.
    """

    map_user: int | None = None
    map_group: int | None = None
    map_users: tuple[Extent, ...] = ()
    map_groups: tuple[Extent, ...] = ()
    fill_users: Fill = "none"
    fill_groups: Fill = "none"
    setgroups: SetgroupsPolicy = "auto"
    allow_single_id: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "map_users", _extents(self.map_users))
        object.__setattr__(self, "map_groups", _extents(self.map_groups))
        if self.setgroups not in ("auto", "allow", "deny"):
            raise ValueError(f"setgroups must be auto, allow or deny, not {self.setgroups!r}")
        for fill in (self.fill_users, self.fill_groups):
            if fill not in _FILLS:
                raise ValueError(f"fill must be one of {', '.join(_FILLS)}, not {fill!r}")

    @classmethod
    def root(cls) -> IdMap:
        """Return an IdMap that maps the caller to uid 0 and gid 0, and no other id."""
        return cls(map_user=0, map_group=0)

    @classmethod
    def current(cls) -> IdMap:
        """Return an IdMap that maps the caller's uid and gid to themselves, and no other id."""
        return cls(map_user=os.geteuid(), map_group=os.getegid())

    @classmethod
    def auto(cls, *, allow_single_id: bool = False) -> IdMap:
        """Return an IdMap that maps the caller to uid 0 and gid 0.

        The subordinate ids are mapped to the ids from 1 on.
        """
        return cls.keep_id(0, 0, allow_single_id=allow_single_id)

    @classmethod
    def keep_id(
        cls, uid: int | None = None, gid: int | None = None, *, allow_single_id: bool = False
    ) -> IdMap:
        """Return an IdMap that maps the caller to `uid` and `gid`.

        The subordinate ids are mapped to the other ids from 0 on.

        :param uid: the uid inside, by default the caller's uid.
        :param gid: the gid inside, by default the caller's gid.
        """
        return cls(
            map_user=os.geteuid() if uid is None else uid,
            map_group=os.getegid() if gid is None else gid,
            fill_users="auto",
            fill_groups="auto",
            allow_single_id=allow_single_id,
        )

    @classmethod
    def extents(
        cls,
        uids: Iterable[AnyExtent],
        gids: Iterable[AnyExtent],
        *,
        setgroups: SetgroupsPolicy = "auto",
    ) -> IdMap:
        """Return an IdMap that maps exactly the given extents.

        :param uids: the extents of uids, each an :class:`Extent`, three numbers, or a string such
            as ``"0:100000:65536"``.
        :param gids: the extents of gids.
        :param setgroups: see :class:`IdMap`.
        :raises MapError: an extent is malformed.
        :raises TypeError: `uids` or `gids` is a string instead of a list.
        """
        return cls(map_users=_extents(uids), map_groups=_extents(gids), setgroups=setgroups)


Word = Literal["root", "current", "auto", "subids", "all"]

#: The type of an argument that requests an id map; :func:`requested` describes the values. Extents
#: that are strings must be in a list or a tuple, because type checkers would accept any str as a
#: Sequence[str].
AnyIdMap = (
    IdMap
    | Word
    | Sequence[Extent | tuple[int, int, int]]
    | list[str]
    | list[AnyExtent]
    | tuple[AnyExtent, ...]
)


def _as_itself(fill: Fill) -> IdMap:
    return IdMap(map_user=os.geteuid(), map_group=os.getegid(), fill_users=fill, fill_groups=fill)


_WORDS: dict[str, Callable[[], IdMap]] = {
    "root": IdMap.root,
    "current": IdMap.current,
    "auto": IdMap.auto,
    "subids": lambda: _as_itself("subids"),
    "all": lambda: IdMap(fill_users="all", fill_groups="all"),
}


def requested(idmap: AnyIdMap | None, name: str = "idmap") -> IdMap:
    """Return the id map that an argument requests.

    :param idmap: an :class:`IdMap`; ``"root"``, ``"current"`` or ``"auto"`` for the result of the
        class method with that name; ``"subids"`` for the caller's own and subordinate ids, each
        mapped to itself; ``"all"`` for all ids of the caller's user namespace, each mapped to
        itself; extents, for uids and gids alike; or ``None``, the same as ``"root"``.
    :param name: the name of the argument, for error messages.
    :raises TypeError: `idmap` has another type.
    :raises ValueError: `idmap` is an unknown string.
    :raises MapError: an extent is malformed.
    """
    if idmap is None:
        return IdMap.root()
    if isinstance(idmap, IdMap):
        return idmap
    words = ", ".join(map(repr, _WORDS))
    if isinstance(idmap, str):
        if idmap not in _WORDS:
            raise ValueError(f"{name} must be one of {words}, an IdMap or extents, not {idmap!r}")
        return _WORDS[idmap]()
    extents = list(idmap) if isinstance(idmap, Iterable) else [idmap]
    if not isinstance(idmap, Iterable) or not all(map(_is_extent, extents)):
        raise TypeError(
            f"{name} must be an IdMap, one of {words}, or extents, such as '0:1000:1', "
            f"not {idmap!r}"
        )
    return IdMap.extents(extents, extents)


def _is_extent(value: Any) -> bool:
    if isinstance(value, Extent | str):
        return True
    return isinstance(value, tuple | list) and [type(number) for number in value] == [int] * 3


Writer = Literal["none", "self", "parent", "helper"]


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """A range of ids: `count` ids from `start` on."""

    start: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The id map for a command, and the processes that write uid_map and gid_map.

    :ivar uid: the extents of uids.
    :ivar gid: the extents of gids.
    :ivar uid_writer: the writer of uid_map: ``"self"`` for the process in the namespace, which may
        map its own id; ``"parent"`` for a process with CAP_SETUID in the parent namespace;
        ``"helper"`` for newuidmap(1), which maps ranges of /etc/subuid; ``"none"`` if no uid is
        mapped.
    :ivar gid_writer: the writer of gid_map; see `uid_writer`, but with CAP_SETGID, newgidmap(1) and
        /etc/subgid.
    :ivar uid_reason: the reason for `uid_writer`, a sentence.
    :ivar gid_reason: the reason for `gid_writer`, a sentence.
    :ivar setgroups: the value to write to /proc/PID/setgroups; ``"auto"`` if nothing is written.
    :ivar become: the uid and the gid of a command inside; -1 for an id of the caller that is not
        mapped.
    :ivar drop_groups: whether a command loses the caller's supplementary groups, because its gid is
        not mapped to the caller's gid.
    :ivar clipped_uid: the subordinate uids that can't be mapped, because the caller's user
        namespace does not map them.
    :ivar clipped_gid: the subordinate gids that can't be mapped for the same reason.
    :ivar notices: remarks on the subordinate id ranges, one sentence each.
    :ivar single_id_reason: the reason why only one id is mapped, as `allow_single_id` permits; else
        ``None``.
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


class SingleIdWarning(UserWarning):
    """Warning that, as `allow_single_id` permits, only the caller's id is mapped."""


def plan(idmap: AnyIdMap) -> Plan:
    """Return the core's plan for an id map that the caller requests; start no process.

    :param idmap: the requested map; see :class:`usernsctl.Popen`.
    :raises MapError: the kernel would reject the map (EINVAL in user_namespaces(7)).
    :raises PlanError: the caller is not permitted to use the map; `cause` is the reason.
    :raises TypeError: `idmap` is neither an :class:`IdMap`, nor a string, nor extents.
    :raises ValueError: `idmap` is an unknown string.
    """
    native = _decide(requested(idmap))
    result = native.describe()
    values: dict[str, Any] = {each.name: getattr(result, each.name) for each in fields(result)}
    values["uid"] = tuple(Extent(*extent) for extent in result.uid)
    values["gid"] = tuple(Extent(*extent) for extent in result.gid)
    values["clipped_uid"] = tuple(Range(*ids) for ids in result.clipped_uid)
    values["clipped_gid"] = tuple(Range(*ids) for ids in result.clipped_gid)
    return Plan(**values, native=native)


def decide(idmap: AnyIdMap | None) -> _core.NativePlan:
    """Return the core's plan for an id map, and warn if the plan maps only one id.

    :raises MapError: as :func:`plan` does.
    :raises PlanError: as :func:`plan` does.
    :raises TypeError: as :func:`plan` does.
    :raises ValueError: as :func:`plan` does.
    """
    native = _decide(requested(idmap))
    if native.single_id_reason is not None:
        warn_single_id(native.single_id_reason)
    return native


def warn_single_id(reason: str) -> None:
    """Issue a :class:`SingleIdWarning` that points to the line that called this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == "usernsctl":
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"mapping only the caller's own id, as allow_single_id permits: {reason}",
        SingleIdWarning,
        stacklevel=level,
    )


def _decide(idmap: IdMap) -> _core.NativePlan:
    return _core.plan(
        _core.IdRequest(idmap.map_user, idmap.map_users, idmap.fill_users),
        _core.IdRequest(idmap.map_group, idmap.map_groups, idmap.fill_groups),
        setgroups=idmap.setgroups,
        allow_single_id=idmap.allow_single_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedIds:
    """The mapped ids of a user namespace.

    :ivar uid: the map of uids.
    :ivar gid: the map of gids.
    :ivar become: the uid and gid of commands inside.
    """

    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]
    become: tuple[int, int]

    @classmethod
    def of_plan(cls, plan: Plan) -> Self:
        """Return the ids that will be mapped in the new user namespace of a plan."""
        return cls(uid=plan.uid, gid=plan.gid, become=plan.become)

    @classmethod
    def of_setup(cls, uid: tuple[Extent, ...], gid: tuple[Extent, ...], setup: _core.Setup) -> Self:
        """Return the mapped ids of an existing user namespace.

        :param uid: the map of uids.
        :param gid: the map of gids.
        :param setup: the settings of a command in the namespace. If they do not change the uid or
            the gid, `become` contains -1 for it.
        """
        become = (-1 if setup.uid is None else setup.uid, -1 if setup.gid is None else setup.gid)
        return cls(uid=uid, gid=gid, become=become)

    def has(self, user: tuple[int, int]) -> bool:
        """Return whether a uid and a gid in the namespace are both mapped."""
        both = zip((self.uid, self.gid), user, strict=True)
        return all(any(extent.has(wanted) for extent in extents) for extents, wanted in both)

    @property
    def count(self) -> int:
        """The number of mapped uids or of mapped gids, whichever is greater."""
        return max(sum(extent.count for extent in extents) for extents in (self.uid, self.gid))
