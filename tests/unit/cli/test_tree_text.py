"""Tests of printing the tree of user namespaces as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from usernsctl.cli import tree_text
from usernsctl.namespaces.tree import Tree, UserNamespace


class Counted(tuple[Any, ...]):
    """A tuple that counts its iterations."""

    times = 0

    def __iter__(self) -> Iterator[Any]:
        type(self).times += 1
        return super().__iter__()


def namespace(inode: int, parent: int | None) -> UserNamespace:
    return UserNamespace(inode=inode, parent=parent, owner=0, uid=())


def test_namespaces_are_drawn_below_their_parents() -> None:
    namespaces = (namespace(5, None), namespace(9, 5), namespace(3, 9), namespace(7, 5))
    lines = tree_text.lines(Tree(namespaces=namespaces, unseen=0), is_ascii=True)
    assert [line for line in lines if line[-1].isdigit()] == ["|- 7", "`- 9", "   `- 3"]


def test_tree_of_many_namespaces_is_iterated_fewer_than_5_times() -> None:
    """Check that drawing is not quadratic in time: any user can create many namespaces."""
    namespaces = Counted([namespace(0, None), *(namespace(inode, 0) for inode in range(1, 100))])
    lines = list(tree_text.lines(Tree(namespaces=namespaces, unseen=0), is_ascii=True))
    assert len(lines) == 300
    assert Counted.times < 5
