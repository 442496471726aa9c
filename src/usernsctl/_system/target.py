"""The namespaces in which a command starts: new or existing ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from usernsctl import _core
from usernsctl._lean import Any, Literal, Protocol, dataclass, field, runtime_checkable
from usernsctl.maps import AnyIdMap, Plan, decide

Propagation = Literal["private", "slave", "shared", "unchanged"]

# MS_PRIVATE, MS_SLAVE and MS_SHARED of mount(2), which the standard library does not define.
_PROPAGATION = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unchanged": 0}

#: The kinds of namespaces, except ``"user"``, that a process enters itself. A PID or time namespace
#: is entered only by the children of the process that calls setns(2).
ENTERABLE = ("mount", "net", "ipc", "uts", "cgroup")
#: The kinds of namespaces that a descriptor keeps alive without a process inside.
KEPT = (*ENTERABLE, "time")


@runtime_checkable
class Joinable(Protocol):
    """Protocol of existing namespaces that a command can join."""

    def target(self) -> Target:
        """Return the target with which to start one command in the namespaces."""


@dataclass(slots=True)
class Target:
    """The namespaces of a command, as :func:`usernsctl._core.spawn` needs them.

    :ivar plan: the plan of a new user namespace, or ``None``.
    :ivar join: the descriptors of namespaces to join first, in the order of
        :data:`_core.ALL_NAMESPACES`; -1 for a kind that is not joined; ``None`` to join none.
    :ivar namespaces: the kinds of namespaces to create, except ``"user"``.
    :ivar has_init: whether PID 1 of a new PID namespace is not the command, but its parent, a
        process of usernsctl.
    :ivar setup: the settings to apply in the namespaces before the command starts.
    :ivar owner: the object whose finaliser closes the descriptors in `join`; this reference keeps
        that object alive.
    :ivar keep_open: a context manager that keeps the descriptors in `join` open.
    """

    plan: _core.NativePlan | None = None
    join: Sequence[int] | None = None
    namespaces: tuple[str, ...] = ()
    has_init: bool = False
    setup: _core.Setup = field(default_factory=_core.Setup)
    owner: object | None = None
    keep_open: contextlib.AbstractContextManager[Any] = field(
        default_factory=contextlib.nullcontext
    )

    def enter(self, *, pass_fds: Iterable[int] | None = None) -> None:
        """Move this process, which must have only one thread, into the namespaces.

        :param pass_fds: the descriptors from 3 on that the process passes to the program that it
            executes next. Before the process joins existing namespaces, it closes all other
            descriptors, because root in these namespaces could duplicate them. By default, no
            descriptor is closed.
        :raises NamespaceError: a system call failed; cause ``"multithreaded"`` if the process has
            several threads.
        """
        with self.keep_open:
            if self.join is not None:
                _core.check_single_thread()
                if pass_fds is not None:
                    _core.close_descriptors([*pass_fds, *(fd for fd in self.join if fd >= 0)])
                _core.join(self.join)
            _core.enter(self.plan, self.namespaces)
        _core.apply_setup(self.setup)


class OwnNamespaces:
    """The namespaces of the caller, in which a command starts as :mod:`subprocess` starts it.

    The class implements :class:`Joinable`. This package starts commands in these namespaces instead
    of calling :mod:`subprocess`, which calls vfork(2): a seccomp filter may kill callers of
    vfork(2). ``_core.spawn()`` calls clone3(2) or clone(2), without which no sandbox starts either.
    """

    def target(self) -> Target:
        """Return a target with which a command starts in the caller's namespaces."""
        return Target()


def selected(options: dict[str, Any], kinds: Sequence[str] = _core.NAMESPACES) -> tuple[str, ...]:
    """Remove the keywords in `kinds` from `options`; return the keywords with a true value.

    :param kinds: kinds of namespaces, in the order of :data:`_core.NAMESPACES`.
    """
    return tuple([kind for kind in kinds if options.pop(kind, False)])


def make_target(
    namespaces: tuple[str, ...],
    *,
    init: bool = False,
    idmap: AnyIdMap | None = None,
    namespace: Joinable | None = None,
    planned: Plan | None = None,
    propagation: Propagation = "private",
) -> Target:
    """Return the target for a new user namespace, or for existing namespaces.

    :param namespaces: the kinds of namespaces to create, except ``"user"``.
    :param init: whether PID 1 of a new PID namespace is not the command, but its parent, a process
        of usernsctl.
    :param idmap: the id map of a new user namespace; by default ``"root"``.
    :param namespace: existing namespaces to join, in place of `idmap`.
    :param planned: the plan of an id map, in place of `idmap`. If the plan maps only one id, the
        caller of this function must issue the warning.
    :raises MapError: the id map is malformed.
    :raises PlanError: the caller is not permitted to use the id map.
    :raises TypeError: `idmap` is not an id map, or `namespace` is not a namespace.
    :raises ValueError: `idmap` and `namespace` are both given, the propagation is unknown, or
        `init` is given without a new PID namespace.
    """
    if init and "pid" not in namespaces:
        raise ValueError("init=True needs pid=True: PID 1 exists only in a new PID namespace")
    if propagation not in _PROPAGATION:
        known = ", ".join(_PROPAGATION)
        raise ValueError(f"propagation must be one of {known}, not {propagation!r}")
    if namespace is not None:
        if idmap is not None:
            raise ValueError("idmap and namespace exclude each other: a namespace has its own map")
        if not callable(getattr(namespace, "target", None)):
            raise TypeError(
                f"namespace must be a Namespace, such as Namespace.open(name), not {namespace!r}"
            )
        target = namespace.target()
    else:
        native = decide(idmap) if planned is None else planned.native
        target = Target(plan=native, setup=native.setup())
    target.namespaces = namespaces
    target.has_init = init
    if "mount" in namespaces:
        target.setup.propagation = _PROPAGATION[propagation]
    return target
