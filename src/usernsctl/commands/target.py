"""Where a command is to run: in which new namespaces, in which kept ones, and as whom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from usernsctl import _core
from usernsctl.maps import IdMap, decide

Propagation = Literal["private", "slave", "shared", "unchanged"]

# mount(2)'s flags; the standard library does not have them.
_PROPAGATION = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unchanged": 0}


class Joinable(Protocol):
    """Namespaces that exist already and that a command can be put into."""

    def target(self) -> Target: ...


@dataclass(slots=True)
class Target:
    """What :func:`usernsctl._core.spawn` needs to know beside the command.

    :ivar plan: of a new user namespace, or ``None``.
    :ivar join: the descriptors of namespaces to join first, in the core's order; -1: none.
    :ivar namespaces: the names of further new ones.
    :ivar setup: what is done inside before the command starts.
    :ivar owner: whoever has opened `join`, and would close it if nobody knew him any more.
    :ivar held: keeps `join` open for as long as it is entered.
    """

    plan: _core.NativePlan | None = None
    join: Sequence[int] | None = None
    namespaces: tuple[str, ...] = ()
    setup: _core.Setup = field(default_factory=_core.Setup)
    owner: object | None = None
    held: contextlib.AbstractContextManager[Any] = field(default_factory=contextlib.nullcontext)

    def enter(self, *, pass_fds: Iterable[int] | None = None) -> None:
        """Move this process there, which must have one thread only.

        :param pass_fds: where the process is about to execute something, the descriptors from 3 on
            that this gets. Before kept namespaces are joined, all others are closed: who is root
            there must not have the least chance to take them.
        :raises NamespaceError: the kernel refused; cause ``"multithreaded"`` if there are threads.
        """
        with self.held:
            if self.join is not None:
                _core.check_single_thread()
                if pass_fds is not None:
                    _core.close_descriptors([*pass_fds, *(fd for fd in self.join if fd >= 0)])
                _core.join(self.join)
            _core.enter(self.plan, self.namespaces)
        _core.apply_setup(self.setup)


def selected(
    *,
    mount: bool = False,
    net: bool = False,
    pid: bool = False,
    ipc: bool = False,
    uts: bool = False,
    cgroup: bool = False,
    time: bool = False,
) -> tuple[str, ...]:
    """The names of the namespaces asked for."""
    wanted = (mount, net, pid, ipc, uts, cgroup, time)
    return tuple(name for name, want in zip(_core.NAMESPACES, wanted, strict=True) if want)


def make_target(
    namespaces: tuple[str, ...],
    *,
    idmap: IdMap | None = None,
    namespace: Joinable | None = None,
    propagation: Propagation = "private",
) -> Target:
    """Plan a new user namespace, or take the kept one that is given.

    :param namespaces: the names of further new ones.
    :param idmap: the map of a new user namespace; by default the caller is root there.
    :raises MapError: the map is malformed.
    :raises PlanError: the caller may not have it.
    :raises ValueError: `idmap` and `namespace` are both given, or there is no such propagation.
    """
    if propagation not in _PROPAGATION:
        known = ", ".join(_PROPAGATION)
        raise ValueError(f"propagation must be one of {known}, not {propagation!r}")
    if namespace is not None:
        if idmap is not None:
            raise ValueError("idmap makes a new user namespace, namespace joins one: give only one")
        target = namespace.target()
    else:
        planned = decide(IdMap.root() if idmap is None else idmap)
        target = Target(plan=planned, setup=planned.setup())
    target.namespaces = namespaces
    if "mount" in namespaces:
        target.setup.propagation = _PROPAGATION[propagation]
    return target
