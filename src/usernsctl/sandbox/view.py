"""Paths as the command will see them, followed before it runs."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

# As many as the kernel follows (path_resolution(7)).
_LINKS_MAX = 40


@dataclass(frozen=True, slots=True)
class Walk:
    """How far a path inside leads.

    :ivar inside: the path of the last file reached, as seen inside, without symbolic links.
    :ivar outside: the path of the same file for us.
    :ivar missing: what is left of the path, which does not exist.
    """

    inside: str
    outside: str
    missing: tuple[str, ...]

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

    def __init__(self, top: str) -> None:
        self.top = top
        self._binds: dict[str, str] = {}

    def add_bind(self, inside: str, source: str) -> None:
        """Note that runsc will show `source`, a path outside without symbolic links, there.

        The first of two at the same place counts.
        """
        self._binds.setdefault(inside, source)

    def leads_to_bind(self, inside: str) -> bool:
        """Whether this is the place of a bind or a directory on the way to one.

        Those on the way exist inside even where a mount hides what is there for us: gVisor makes
        them up.
        """
        return any(f"{place}/".startswith(f"{inside}/") for place in self._binds)

    def outside(self, inside: str) -> str:
        """The path for us of a path inside that has no symbolic links on the way."""
        for destination in sorted(self._binds, key=len, reverse=True):
            if inside == destination or inside.startswith(f"{destination}/"):
                return self._binds[destination] + inside[len(destination) :]
        return self.top if inside == "/" else self.top + inside

    def walk(self, path: str, *, start: str = "/") -> Walk:
        """Follow a path inside, and the symbolic links on it, as the kernel will do there.

        :param start: the directory inside that a relative path starts at.
        :raises OSError: there are too many links, or we may not look into a directory on the way.
        """
        pending = [*reversed(path.split("/"))]
        current = "/" if path.startswith("/") else start
        links = 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                current = os.path.dirname(current)
                continue
            candidate = os.path.join(current, name)
            if self.leads_to_bind(candidate):
                current = candidate
                continue
            try:
                link = _read_link(self.outside(candidate))
            except (FileNotFoundError, NotADirectoryError):
                rest = tuple(part for part in (name, *reversed(pending)) if part not in ("", "."))
                return Walk(current, self.outside(current), rest)
            if link is None:
                current = candidate
                continue
            links += 1
            if links > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            pending += reversed(link.split("/"))
            if link.startswith("/"):
                current = "/"
        return Walk(current, self.outside(current), ())


def _read_link(path: str) -> str | None:
    """What the symbolic link at `path` holds, or ``None`` if there is a file of another kind."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise
