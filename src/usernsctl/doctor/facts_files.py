"""The files that facts are read from, below a root directory."""

from __future__ import annotations

import os

# Where helpers are when PATH does not say: as csrc/granted.c has it.
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class Tree:
    """A root directory. What is absent or can't be read there is ``None``, not an error."""

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")

    @property
    def is_real(self) -> bool:
        """Whether it is this machine's own."""
        return not self._root

    def path(self, path: str) -> str:
        """Where a file of the tree is on this machine."""
        return f"{self._root}/{path.lstrip('/')}"

    def text(self, path: str) -> str | None:
        try:
            with open(self.path(path), "rb") as file:
                return os.fsdecode(file.read())
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        """The number that a file holds; ``None`` also where it holds another word."""
        try:
            return int((self.text(path) or "").strip())
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def link(self, path: str) -> str | None:
        """Where a symbolic link leads."""
        try:
            return os.readlink(self.path(path))
        except OSError:
            return None

    def is_absent(self, path: str) -> bool:
        """Whether it is certain that there is no such file: it may only be out of reach."""
        try:
            os.lstat(self.path(path))
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def exists(self, path: str) -> bool:
        return os.path.exists(self.path(path))

    def real(self, path: str) -> str:
        """A path of the tree without symbolic links."""
        real = os.path.realpath(self.path(path))
        return real.removeprefix(os.path.realpath(self._root or "/").rstrip("/")) or "/"

    def which(self, name: str, search: str | None) -> str | None:
        """The first executable file along `search`, absolute directories only, as the core does."""
        for directory in (search or _DEFAULT_PATH).split(":"):
            path = f"{directory}/{name}"
            if directory.startswith("/") and os.access(self.path(path), os.X_OK):
                return path
        return None

    def has_attribute(self, path: str, attribute: str) -> bool:
        try:
            return bool(os.getxattr(self.path(path), attribute))
        except OSError:
            return False
