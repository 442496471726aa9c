"""Paths as the command will see them, followed before it runs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from usernsctl import opened
from usernsctl.opened import Opened


@dataclass(frozen=True, slots=True)
class Place:
    """A path inside, without symbolic links, and the file that is there for us.

    :ivar file: ``None`` where only gVisor will have one: it makes up the way to a mount.
    """

    inside: str
    file: Opened | None


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a path inside leads.

    :ivar trail: the directories on the way, from the root on, and the last file reached.
    :ivar missing: what is left of the path, which does not exist.
    """

    trail: tuple[Place, ...]
    missing: tuple[str, ...]

    @property
    def inside(self) -> str:
        """The path of the last file reached, as seen inside, without symbolic links."""
        return self.trail[-1].inside

    @property
    def file(self) -> Opened | None:
        """The last file reached, by a descriptor of ours."""
        return self.trail[-1].file

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def wanted(self) -> str:
        """Where the path leads inside, whether or not it exists."""
        return os.path.join(self.inside, *self.missing)


class View:
    """The directory tree that the command will see.

    :param top: the directory that becomes its ``/``.
    """

    def __init__(self, top: Opened) -> None:
        self.top = top
        self._binds: dict[str, Opened] = {}

    def add_bind(self, inside: str, source: Opened) -> None:
        """Note that runsc will show `source` at a path inside that has no symbolic links.

        The first of two at the same place counts.
        """
        self._binds.setdefault(inside, source)

    def bind_at(self, inside: str) -> tuple[str, Opened] | None:
        """The innermost bind that shows a path without symbolic links, and its place."""
        while inside not in self._binds:
            if inside == "/":
                return None
            inside = os.path.dirname(inside)
        return inside, self._binds[inside]

    def leads_to_bind(self, inside: str) -> bool:
        """Whether this is the place of a bind or a directory on the way to one.

        Those on the way exist inside even where a mount hides what is there for us: gVisor makes
        them up.
        """
        return any(f"{place}/".startswith(f"{inside}/") for place in self._binds)

    def walk(self, path: str, *, start: str = "/") -> Walk:
        """Follow a path inside, and the symbolic links on it, as the kernel will do there.

        :param start: the directory inside that a relative path starts at.
        :raises OSError: there are too many links, or we may not look into a directory on the way.
        """
        trail = [Place("/", self.top)]
        missing = opened.walk(os.path.join(start, path), trail, self._look)
        return Walk(tuple(trail), missing)

    def _look(self, trail: list[Place], name: str) -> Place | str | None:
        inside = os.path.join(trail[-1].inside, name)
        if inside in self._binds:
            return Place(inside, self._binds[inside])
        directory = trail[-1].file
        try:
            found = directory.child(name) if directory is not None else None
        except (FileNotFoundError, NotADirectoryError):
            found = None
        if self.leads_to_bind(inside):
            return Place(inside, found)
        if found is None:
            return None
        return found.link if found.is_link else Place(inside, found)
