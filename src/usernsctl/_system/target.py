"""The target namespaces of a command, new or joined."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from usernsctl import _core
from usernsctl._lean import Any, Literal, Protocol, dataclass, field, runtime_checkable
from usernsctl.maps import AnyIdMap, Plan, decide

Propagation = Literal["private", "slave", "shared", "unchanged"]

# MS_PRIVATE, MS_SLAVE and MS_SHARED of mount(2), which the standard library does not have.
_PROPAGATION = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unchanged": 0}

#: The namespaces that a process may enter itself; only its children enter the others.
ENTERABLE = ("mount", "net", "ipc", "uts", "cgroup")
#: The namespaces that a descriptor keeps, without a process in them.
KEPT = (*ENTERABLE, "time")


@runtime_checkable
class Joinable(Protocol):
    """Existing namespaces that a command can join."""

    def target(self) -> Target:
        """Return the target for one start of a command."""


@dataclass(slots=True)
class Target:
    """The namespaces of a command, as :func:`usernsctl._core.spawn` needs them.

    :ivar plan: the plan of a new user namespace, or ``None``.
    :ivar join: the descriptors of namespaces to join first, in the core's order; -1 for none.
    :ivar namespaces: the names of further new namespaces.
    :ivar has_init: whether process 1 of a new PID namespace is the parent of the command.
    :ivar setup: the settings that are applied inside before the command starts.
    :ivar owner: the owner of `join`, referenced since its finaliser closes the descriptors.
    :ivar keep_open: a context manager that keeps `join` open.
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
        """Move this process into the namespaces. It must have one thread only.

        :param pass_fds: the descriptors from 3 on that the process passes to the program that it
            executes next. All others are closed before kept namespaces are joined, since root
            inside could duplicate them.
        :raises NamespaceError: a call failed; cause ``"multithreaded"`` if there are threads.
        """
        with self.keep_open:
            if self.join is not None:
                _core.check_single_thread()
                if pass_fds is not None:
                    _core.close_descriptors([*pass_fds, *(fd for fd in self.join if fd >= 0)])
                _core.join(self.join)
            _core.enter(self.plan, self.namespaces)
        _core.apply_setup(self.setup)


def selected(options: dict[str, Any], kinds: Sequence[str] = _core.NAMESPACES) -> tuple[str, ...]:
    """Remove the namespace keywords from `options`; return the names of those with a true value.

    :param kinds: the possible names, in the core's order.
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
    """Return the target for a new user namespace, or for a kept one.

    :param namespaces: the names of further new namespaces.
    :param init: whether process 1 of a new PID namespace is the parent of the command.
    :param idmap: the map of a new user namespace; by default the caller is root there.
    :param namespace: a kept namespace to join, in place of `idmap`.
    :param planned: the plan of a map, in place of `idmap`. The caller warns if it
        maps only a single id.
    :raises MapError: the map is malformed.
    :raises PlanError: the caller may not use the map.
    :raises TypeError: `idmap` is not a map, or `namespace` is not a namespace.
    :raises ValueError: `idmap` and `namespace` are both given, the propagation is unknown, or
        `init` is given without a new PID namespace.
    """
    if init and "pid" not in namespaces:
        raise ValueError("init=True needs pid=True: process 1 exists only in a new PID namespace")
    if propagation not in _PROPAGATION:
        known = ", ".join(_PROPAGATION)
        raise ValueError(f"propagation must be one of {known}, not {propagation!r}")
    if namespace is not None:
        if idmap is not None:
            raise ValueError("idmap and namespace exclude each other: a namespace has its own map")
        if not callable(getattr(namespace, "target", None)):
            raise TypeError(
                f"namespace must be a Namespace, not {namespace!r}; "
                "Namespace.open(name) opens a namespace by its name"
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
