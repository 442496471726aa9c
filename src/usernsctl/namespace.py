"""Entering namespaces."""

from __future__ import annotations

from typing import Literal

from usernsctl import _core
from usernsctl.idmap import IdMap
from usernsctl.plan import Plan, plan

Propagation = Literal["private", "slave", "shared", "unchanged"]

# mount(2)'s flags; the standard library does not have them.
_PROPAGATION = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unchanged": 0}


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


def setup_for(
    planned: Plan, namespaces: tuple[str, ...], propagation: Propagation = "private"
) -> _core.Setup:
    """What is to be done inside `namespaces` before anything else.

    :raises ValueError: there is no such propagation.
    """
    if propagation not in _PROPAGATION:
        known = ", ".join(_PROPAGATION)
        raise ValueError(f"propagation must be one of {known}, not {propagation!r}")
    setup = planned.setup()
    if "mount" in namespaces:
        setup.propagation = _PROPAGATION[propagation]
    return setup


def enter(
    idmap: IdMap,
    *,
    mount: bool = False,
    net: bool = False,
    ipc: bool = False,
    uts: bool = False,
    cgroup: bool = False,
    propagation: Propagation = "private",
) -> Plan:
    """Move this process into a new user namespace, and into new ones of the kinds asked for.

    The process must have one thread only; :func:`usernsctl.run` and :class:`usernsctl.Popen` have
    no such limit. There is no way back, so a failure may leave the process in between: exit then.

    :param idmap: the ids inside.
    :param propagation: of the mounts in a new mount namespace.
    :raises MapError: the map is malformed.
    :raises PlanError: the caller may not have the map.
    :raises NamespaceError: the kernel refused; cause ``"multithreaded"`` if there are threads.
    """
    namespaces = selected(mount=mount, net=net, ipc=ipc, uts=uts, cgroup=cgroup)
    planned = plan(idmap)
    setup = setup_for(planned, namespaces, propagation)
    _core.enter(planned.native, namespaces)
    _core.apply_setup(setup)
    return planned
