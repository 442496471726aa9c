"""The tree of all user namespaces with processes, as far as this process may read /proc.

All values of a process are read through one descriptor of its directory in /proc, so that they
can't come from two processes that had the same pid one after the other. A process that exits before
all its values are read is omitted.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from functools import partial

from usernsctl._lean import dataclass, field
from usernsctl._system.paths import OpenFile
from usernsctl._system.processes import owner_of, parent_namespace
from usernsctl.errors import NamespaceError
from usernsctl.maps import Extent, parse_map
from usernsctl.namespaces.named import list_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process in a user namespace.

    :ivar name: the name that the process set (PR_SET_NAME(2const)). The name may be any text.
    """

    pid: int
    name: str


@dataclass(slots=True, kw_only=True)
class UserNamespace:
    """A user namespace.

    :ivar inode: the inode number of the namespace (namespaces(7)).
    :ivar parent: the inode number of the parent namespace; ``None`` for this process's own
        namespace.
    :ivar owner: the owner's uid in this process's user namespace.
    :ivar uid: the map of uids, or ``None`` if no process has a readable map.
    :ivar gid: the map of gids, or ``None``, like `uid`.
    :ivar names: the names of the namespace, if it is a named namespace of usernsctl.
    """

    inode: int
    parent: int | None
    owner: int
    uid: tuple[Extent, ...] | None = None
    gid: tuple[Extent, ...] | None = None
    names: list[str] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """All user namespaces that this process can find.

    :ivar namespaces: the namespaces, each after its parent. The first is this process's own
        namespace.
    :ivar unseen: the number of processes whose user namespaces this process may not read.
    :ivar nameless: the reason why the names could not be read, or ``None``. For example, in a
        nested user namespace, the state directory may be another user's, because its path contains
        a uid.
    """

    namespaces: tuple[UserNamespace, ...]
    unseen: int
    nameless: str | None = None


def look() -> Tree:
    """Return the tree of this process's user namespace and its descendants, from /proc.

    :raises OSError: /proc can't be read.
    """
    found: dict[int, UserNamespace] = {}
    kept, nameless = {}, None
    try:
        kept = {one.pid: one.name for one in list_named()}
    except NamespaceError as error:
        nameless = error.reason
    with open("/proc/self/ns/user", "rb", buffering=0) as here:
        own = os.fstat(here.fileno()).st_ino
        found[own] = UserNamespace(inode=own, parent=None, owner=owner_of(here.fileno()))
    unseen = 0
    for entry in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        try:
            _add(found, own, int(entry), kept.get(int(entry)))
        except PermissionError:
            unseen += 1
        except (FileNotFoundError, ProcessLookupError):
            continue
    return Tree(namespaces=tuple(_in_order(found, own)), unseen=unseen, nameless=nameless)


def _add(found: dict[int, UserNamespace], own: int, pid: int, name: str | None) -> None:
    """Add a process to its user namespace in `found`; add that namespace first if it is missing.

    :raises PermissionError: this process may not read the namespace of the process `pid`.
    :raises OSError: the process has exited.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with OpenFile.own(f"/proc/{pid}", os.open, f"/proc/{pid}", flags) as opened:
        directory = opened.fd
        opener = partial(os.open, dir_fd=directory)
        with open("ns/user", "rb", buffering=0, opener=opener) as namespace:
            inode = os.fstat(namespace.fileno()).st_ino
            if inode not in found and not _add_namespaces(found, own, namespace.fileno()):
                # The namespace does not descend from this process's user namespace.
                raise PermissionError
        one = found[inode]
        command = _read(directory, "comm").rstrip("\n")
        if one.uid is None:
            maps = [parse_map(_read(directory, file)) for file in ("uid_map", "gid_map")]
            one.uid, one.gid = maps
        one.processes.append(Process(pid=pid, name=command))
        if name is not None:
            one.names.append(name)


def _add_namespaces(found: dict[int, UserNamespace], own: int, namespace: int) -> bool:
    """Add a namespace to `found`, and all of its ancestors up to the namespace `own`.

    :returns: whether `own` is an ancestor of the namespace; if not, nothing is added.
    """
    new: list[UserNamespace] = []
    with contextlib.ExitStack() as opened:
        while (inode := os.fstat(namespace).st_ino) not in found:
            try:
                above = parent_namespace(namespace)
            except PermissionError:
                return False
            opened.callback(above.close)
            parent = os.fstat(above.number).st_ino
            new.append(UserNamespace(inode=inode, parent=parent, owner=owner_of(namespace)))
            namespace = above.number
    found.update((one.inode, one) for one in new)
    return True


def _read(directory: int, name: str) -> str:
    with open(name, "rb", opener=partial(os.open, dir_fd=directory)) as file:
        return os.fsdecode(file.read())


def by_parent(namespaces: Iterable[UserNamespace]) -> dict[int | None, list[UserNamespace]]:
    """Return a dict that maps inode numbers of parents to children, sorted by inode number."""
    below: dict[int | None, list[UserNamespace]] = {}
    for one in sorted(namespaces, key=lambda one: one.inode):
        below.setdefault(one.parent, []).append(one)
    return below


def _in_order(found: dict[int, UserNamespace], own: int) -> Iterator[UserNamespace]:
    below = by_parent(found.values())
    left = [found[own]]
    while left:
        one = left.pop()
        yield one
        left += reversed(below.get(one.inode, []))
