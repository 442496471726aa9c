"""Which namespaces a command is started in, and what it is handed over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence

from usernsctl import _core
from usernsctl._lean import Any, Literal, Protocol, dataclass, field, runtime_checkable
from usernsctl.maps import AnyIdMap, Plan, decide

# The signals that the caller has ignored, and this process does not.
_IGNORED: set[int] = set()


Propagation = Literal["private", "slave", "shared", "unchanged"]

# mount(2)'s flags; the standard library does not have them.
_PROPAGATION = {"private": 1 << 18, "slave": 1 << 19, "shared": 1 << 20, "unchanged": 0}

#: The namespaces that a process may move into itself; the others are its children's only.
ENTERABLE = ("mount", "net", "ipc", "uts", "cgroup")
#: Those that can be held by a descriptor, without a process in them.
KEPT = (*ENTERABLE, "time")


@runtime_checkable
class Joinable(Protocol):
    """Namespaces that exist already and that a command can be put into."""

    def target(self) -> Target:
        """Where a command goes that is to run there, for one start."""


@dataclass(slots=True)
class Target:
    """What :func:`usernsctl._core.spawn` needs to know beside the command.

    :ivar plan: of a new user namespace, or ``None``.
    :ivar join: the descriptors of namespaces to join first, in the core's order; -1: none.
    :ivar namespaces: the names of further new ones.
    :ivar has_init: whether process 1 of a new PID namespace is the parent of the command.
    :ivar setup: what is done inside before the command starts.
    :ivar owner: whoever has opened `join`, and would close it if nobody knew him any more.
    :ivar held: keeps `join` open for as long as it is entered.
    """

    plan: _core.NativePlan | None = None
    join: Sequence[int] | None = None
    namespaces: tuple[str, ...] = ()
    has_init: bool = False
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


def selected(options: dict[str, Any], kinds: Sequence[str] = _core.NAMESPACES) -> tuple[str, ...]:
    """Take the keywords of namespaces out of `options`, and tell which are asked for.

    :param kinds: those that can be had, in the core's order.
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
    """Plan a new user namespace, or take the kept one that is given.

    :param namespaces: the names of further new ones.
    :param init: whether process 1 of a new PID namespace is the parent of the command.
    :param idmap: the map of a new user namespace, or what stands for one; by default the caller is
        root there.
    :param namespace: the kept one, in place of `idmap`.
    :param planned: what `idmap` has led to already, in its place. Who has it tells of a single id.
    :raises MapError: the map is malformed.
    :raises PlanError: the caller may not have it.
    :raises TypeError: `idmap` is nothing that stands for a map, or `namespace` is no namespace.
    :raises ValueError: `idmap` and `namespace` are both given, there is no such propagation, or
        `init` is given without a new PID namespace.
    """
    if init and "pid" not in namespaces:
        raise ValueError("init=True is about process 1 of a new PID namespace: give pid=True, too")
    if propagation not in _PROPAGATION:
        known = ", ".join(_PROPAGATION)
        raise ValueError(f"propagation must be one of {known}, not {propagation!r}")
    if namespace is not None:
        if idmap is not None:
            raise ValueError("idmap makes a new user namespace, namespace joins one: give only one")
        if not callable(getattr(namespace, "target", None)):
            raise TypeError(
                f"namespace must be a Namespace, not {namespace!r}; "
                "Namespace.open(name) finds the one of that name"
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
