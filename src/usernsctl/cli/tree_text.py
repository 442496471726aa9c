"""Text drawing of the tree of user namespaces."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from usernsctl._text import shown
from usernsctl.cli.terminal import WIDTH
from usernsctl.namespaces.tree import Tree, UserNamespace, by_parent

# Maximum number of processes to list for a namespace. If there are more, only their number is
# printed.
_PROCESSES_MAX = 8

_DRAWN = ("├─ ", "└─ ", "│  ", "   ")
_ASCII = ("|- ", "`- ", "|  ", "   ")


def lines(tree: Tree, *, is_ascii: bool) -> Iterator[str]:
    """Yield the lines of the drawing of a tree, wrapped at 80 columns between words."""
    top, *_ = tree.namespaces
    below = by_parent(tree.namespaces)
    yield from _namespace(below, top, "", "", _ASCII if is_ascii else _DRAWN)
    if tree.unseen:
        noun = "process" if tree.unseen == 1 else "processes"
        yield f"hidden: the namespaces of {tree.unseen} {noun}, which you may not inspect"
    if tree.nameless is not None:
        yield f"unknown: the names of namespaces: {shown(tree.nameless)}"


def _namespace(
    every: Mapping[int | None, Sequence[UserNamespace]],
    namespace: UserNamespace,
    begin: str,
    indent: str,
    drawn: tuple[str, str, str, str],
) -> Iterator[str]:
    below = every.get(namespace.inode, ())
    names = f" {', '.join(namespace.names)}" if namespace.names else ""
    yield f"{begin}{namespace.inode}{names}{' (this one)' if namespace.parent is None else ''}"
    between = indent + (drawn[2] if below else drawn[3])
    extents = "unknown" if namespace.uid is None else " ".join(map(str, namespace.uid)) or "empty"
    yield from _wrapped(f"owner {namespace.owner}, uid map {extents}", between)
    yield from _wrapped(_processes(namespace), between)
    for other in below:
        is_last = other is below[-1]
        first, rest = (drawn[1], drawn[3]) if is_last else (drawn[0], drawn[2])
        yield from _namespace(every, other, indent + first, indent + rest, drawn)


def _processes(namespace: UserNamespace) -> str:
    if not namespace.processes:
        return "no visible processes"
    if len(namespace.processes) > _PROCESSES_MAX:
        return f"{len(namespace.processes)} processes"
    return ", ".join(f"{shown(process.name)} ({process.pid})" for process in namespace.processes)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        shown(text),
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
