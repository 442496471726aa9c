"""The user namespace of a run, new or kept, and the ids that there are in it."""

from __future__ import annotations

from dataclasses import dataclass

from usernsctl.idmap import Extent, IdMap
from usernsctl.plan import plan
from usernsctl.process import close_inherited
from usernsctl.target import Target, make_target

# A mount namespace of the run's own, whatever else there is.
_NAMESPACES = ("mount",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runsc is to run.

    :ivar uid: the map of uids.
    :ivar gid: the map of gids.
    :ivar become: the uid and gid that we have there.
    :ivar target: how to get there.
    :ivar single_id_reason: why there is one id only though more were asked for, or ``None``.
    """

    uid: tuple[Extent, ...]
    gid: tuple[Extent, ...]
    become: tuple[int, int]
    target: Target
    single_id_reason: str | None = None

    @classmethod
    def new(cls, idmap: IdMap) -> Place:
        """A user namespace that is made for the run.

        :raises MapError: the map is malformed.
        :raises PlanError: the caller may not have it.
        """
        planned = plan(idmap)
        target = make_target(_NAMESPACES, idmap=idmap)
        return cls(
            uid=planned.uid,
            gid=planned.gid,
            become=planned.become,
            target=target,
            single_id_reason=planned.single_id_reason,
        )

    @classmethod
    def kept(cls, name: str) -> Place:
        """A user namespace that is kept under a name.

        :raises NamespaceError: there is none of that name.
        """
        from usernsctl.named import find_named

        found = find_named(name)
        target = make_target(_NAMESPACES, namespace=found.open())
        setup = target.setup
        become = (-1 if setup.uid is None else setup.uid, -1 if setup.gid is None else setup.gid)
        return cls(uid=found.uid, gid=found.gid, become=become, target=target)

    @property
    def id_count(self) -> int:
        """How many uids or gids there are, whichever are more."""
        return max(sum(extent.count for extent in extents) for extents in (self.uid, self.gid))

    def enter(self) -> None:
        """Move this process there, into a new mount namespace, with no descriptor of its caller's
        but standard input, output and error.

        :raises NamespaceError: the kernel refused.
        """
        close_inherited()
        self.target.enter()
