"""Id maps, as they are asked for."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

from usernsctl import _core
from usernsctl._lean import Any, Literal, dataclass, field, fields

SetgroupsPolicy = Literal["auto", "allow", "deny"]
Fill = Literal["none", "auto", "subids", "all"]

_FILLS = ("none", "auto", "subids", "all")


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """`count` ids from `inside` on stand for as many from `outside` on (user_namespaces(7)).

    :ivar inside: the first id in the namespace, from 0 to 4294967294; and so `outside`, in the
        namespace that it is made in.
    :ivar count: how many, at least 1.
    """

    inside: int
    outside: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Extent:
        """Read ``inside:outside:count``, the form that unshare(1) takes: three decimal numbers.

        :raises MapError: it is malformed, or no kernel would take it.
        """
        return cls(*_core.parse_extent(text))

    def has(self, inside: int, count: int = 1) -> bool:
        """Whether all of `count` ids from `inside` on are among the ids inside."""
        return self.inside <= inside and inside + count <= self.inside + self.count

    def has_outside(self, outside: int) -> bool:
        """Whether an id inside stands for the id `outside`."""
        return 0 <= outside - self.outside < self.count

    def __iter__(self) -> Iterator[int]:
        return iter((self.inside, self.outside, self.count))

    def __str__(self) -> str:
        return f"{self.inside}:{self.outside}:{self.count}"


def parse_map(text: str) -> tuple[Extent, ...]:
    """Read what /proc/PID/uid_map or gid_map holds (user_namespaces(7))."""
    return tuple(Extent(*map(int, line.split())) for line in text.splitlines())


#: What stands for an extent: itself, its three numbers, or ``"inside:outside:count"``.
AnyExtent = Extent | tuple[int, int, int] | str


def _extents(given: Iterable[AnyExtent]) -> tuple[Extent, ...]:
    if isinstance(given, str):
        raise TypeError(f"an extent must be in a list, as in [{given!r}]")
    return tuple(Extent.parse(e) if isinstance(e, str) else Extent(*e) for e in given)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """A request for an id map; :func:`usernsctl.plan` turns it into extents.

    An id is a number from 0 to 4294967294. What can't be one is found out by whoever takes the
    request: :class:`usernsctl.MapError`.

    :ivar map_user: the uid that the caller's own becomes inside, or ``None``: it is not mapped.
    :ivar map_group: the same for the gid.
    :ivar map_users: further extents of uids.
    :ivar map_groups: further extents of gids.
    :ivar fill_users: what else is mapped: ``"auto"``, all the caller's subordinate ranges, to the
        free ids from 0 on; ``"subids"``, the same ranges, each id to itself; ``"all"``, all ids of
        the namespace we are in, each to itself.
    :ivar fill_groups: the same for gids.
    :ivar setgroups: whether setgroups(2) is permitted inside. ``"auto"`` denies it only where the
        kernel demands that (user_namespaces(7), "The /proc/PID/setgroups file").
    :ivar allow_single_id: whether to go on with the caller's own id alone where more can't be had;
        without it that is an error. There is a :class:`usernsctl.SingleIdWarning` then.
    :raises ValueError: there is no such `setgroups` or fill.
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
        """The caller is uid 0 and gid 0 inside; no other id is mapped."""
        return cls(map_user=0, map_group=0)

    @classmethod
    def current(cls) -> IdMap:
        """The caller keeps its uid and gid; no other id is mapped."""
        return cls(map_user=os.geteuid(), map_group=os.getegid())

    @classmethod
    def auto(cls, *, allow_single_id: bool = False) -> IdMap:
        """The caller is uid 0 and gid 0 inside; all its subordinate ranges follow from 1 on."""
        return cls.keep_id(0, 0, allow_single_id=allow_single_id)

    @classmethod
    def keep_id(
        cls, uid: int | None = None, gid: int | None = None, *, allow_single_id: bool = False
    ) -> IdMap:
        """The caller is `uid` and `gid` inside, its subordinate ranges lie around them from 0 on.

        :param uid: by default the caller's own; and so `gid`.
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
        """Exactly these extents, each an :class:`Extent`, three numbers or ``"0:100000:65536"``.

        :raises MapError: one of them is malformed.
        :raises TypeError: `uids` or `gids` is a single text, and not a list.
        """
        return cls(map_users=_extents(uids), map_groups=_extents(gids), setgroups=setgroups)


Word = Literal["root", "current", "auto", "subids", "all"]

#: What stands for a map wherever one is asked for: see :func:`requested`. To type checkers, a str
#: would be a sequence of extents, if any sequence was one.
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


def requested(given: AnyIdMap | None, name: str = "idmap") -> IdMap:
    """The map that an argument asks for.

    :param given: an :class:`IdMap`; a word: ``"root"`` and ``"current"``, what the class methods of
        these names give; ``"auto"``, :meth:`IdMap.auto`; ``"subids"`` and ``"all"``, the caller's
        own id and all its subordinate ranges, or all ids that there are, each as itself; extents,
        for uids and gids alike; or ``None``: ``"root"``.
    :param name: of the argument, for errors.
    :raises TypeError: it is something else.
    :raises ValueError: it is another word.
    :raises MapError: an extent is malformed.
    """
    if given is None:
        return IdMap.root()
    if isinstance(given, IdMap):
        return given
    words = ", ".join(map(repr, _WORDS))
    if isinstance(given, str):
        if given not in _WORDS:
            raise ValueError(f"{name} must be one of {words}, an IdMap or extents, not {given!r}")
        return _WORDS[given]()
    extents = list(given) if isinstance(given, Iterable) else [given]
    if not isinstance(given, Iterable) or not all(map(_is_extent, extents)):
        raise TypeError(
            f"{name} must be an IdMap, one of {words}, or extents, each an Extent, three numbers "
            f"or 'inside:outside:count', not {given!r}"
        )
    return IdMap.extents(extents, extents)


def _is_extent(value: Any) -> bool:
    if isinstance(value, Extent | str):
        return True
    return isinstance(value, tuple | list) and [type(number) for number in value] == [int] * 3


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


class SingleIdWarning(UserWarning):
    """There is one id only, as `allow_single_id` permits, where more were asked for."""


def plan(idmap: AnyIdMap) -> Plan:
    """Decide how the calling process would get `idmap`. Nothing is started.

    :param idmap: as :func:`usernsctl.run` takes it: an :class:`IdMap`, a word or extents.
    :raises MapError: the kernel would refuse such a map (EINVAL in user_namespaces(7)).
    :raises PlanError: the caller may not have it; the cause says why.
    :raises TypeError: it is nothing that stands for a map.
    :raises ValueError: likewise.
    """
    native = _decide(requested(idmap))
    result = native.describe()
    values: dict[str, Any] = {one.name: getattr(result, one.name) for one in fields(result)}
    values["uid"] = tuple(Extent(*extent) for extent in result.uid)
    values["gid"] = tuple(Extent(*extent) for extent in result.gid)
    values["clipped_uid"] = tuple(Range(*ids) for ids in result.clipped_uid)
    values["clipped_gid"] = tuple(Range(*ids) for ids in result.clipped_gid)
    return Plan(**values, native=native)


def decide(idmap: AnyIdMap | None) -> _core.NativePlan:
    """The same, for who only wants to make use of it: so it warns where there is one id only.

    :raises MapError: as :func:`plan` does.
    :raises PlanError: likewise.
    :raises TypeError: likewise.
    :raises ValueError: likewise.
    """
    native = _decide(requested(idmap))
    if native.single_id_reason is not None:
        warn_single_id(native.single_id_reason)
    return native


def warn_single_id(reason: str) -> None:
    """Say that there is one id only: a :class:`SingleIdWarning` at whoever called this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals["__name__"].partition(".")[0] == "usernsctl":
        frame, level = frame.f_back, level + 1
    warnings.warn(
        f"going on with one id, as allow_single_id permits: {reason}",
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
    """The ids of a user namespace.

    :ivar uid: the map of uids.
    :ivar gid: the map of gids.
    :ivar become: the uid and gid that we have there.
    """

    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]
    become: tuple[int, int]

    @property
    def count(self) -> int:
        """How many uids or gids there are, whichever are more."""
        return max(sum(extent.count for extent in extents) for extents in (self.uid, self.gid))
