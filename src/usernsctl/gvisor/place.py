"""The user namespace of a run, new or kept, and the ids that there are in it."""

from __future__ import annotations

import os
import select
import signal

from usernsctl import _core
from usernsctl._records import dataclass
from usernsctl._system import mounts
from usernsctl._system.handover import close_inherited
from usernsctl.commands.target import Target, make_target
from usernsctl.maps import Extent, IdMap, plan

# A mount namespace of the run's own, whatever else there is.
_NAMESPACES = ("mount",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where runsc is to run.

    :ivar ids: those that there are.
    :ivar target: how to get there.
    :ivar pid: whether it has a PID namespace, which a process does not move into.
    :ivar single_id_reason: why there is one id only though more were asked for, or ``None``.
    """

    ids: Ids
    target: Target
    pid: bool = False
    single_id_reason: str | None = None

    @classmethod
    def new(cls, idmap: IdMap) -> Place:
        """A user namespace that is made for the run.

        :raises MapError: the map is malformed.
        :raises PlanError: the caller may not have it.
        """
        planned = plan(idmap)
        target = make_target(_NAMESPACES, planned=planned)
        return cls(
            ids=Ids(uid=planned.uid, gid=planned.gid, become=planned.become),
            target=target,
            single_id_reason=planned.single_id_reason,
        )

    @classmethod
    def kept(cls, name: str) -> Place:
        """A user namespace that is kept under a name.

        :raises NamespaceError: there is none of that name.
        """
        # Only who names a namespace pays for these.
        from usernsctl.namespaces.named import find_named
        from usernsctl.namespaces.namespace import Namespace

        found = find_named(name)
        namespace = Namespace.of_holder(found)
        target = make_target(_NAMESPACES, namespace=namespace)
        setup = target.setup
        become = (-1 if setup.uid is None else setup.uid, -1 if setup.gid is None else setup.gid)
        return cls(
            ids=Ids(uid=found.uid, gid=found.gid, become=become),
            target=target,
            pid=namespace.has("pid"),
        )

    def enter(self, *, reraise_signal: bool) -> None:
        """Move this process there, into a new mount namespace.

        Of its caller's descriptors it keeps standard input, output and error only. Where there is a
        PID namespace, this returns in a child, which is in it. This process waits for the child,
        and ends as it does.

        :param reraise_signal: whether a signal that kills the child kills this process as well.
            Otherwise the exit status is 128+N.
        :raises NamespaceError: the kernel refused.
        """
        close_inherited()
        self.target.enter()
        if self.pid:
            _go_on_in_child(reraise_signal=reraise_signal)
            mounts.mount_own_proc()


def _go_on_in_child(*, reraise_signal: bool) -> None:
    parent = os.pidfd_open(os.getpid())
    # None gets lost: what comes before un_stand_in() waits for it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(_core.stand_in(child))
        if status < 0 and reraise_signal:
            _core.reraise(-status)
        os._exit(status if status >= 0 else 128 - status)
    # Before it is looked whether the parent is there: the signal comes from one that dies later.
    _core.apply_setup(_core.Setup(pdeathsig=signal.SIGKILL))
    if select.select([parent], [], [], 0)[0]:
        os._exit(128 + signal.SIGKILL)
    os.close(parent)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
