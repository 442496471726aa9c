"""The defaults of the commands and the copies of files in a sandbox without a first command."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import Any

from usernsctl._lean import dataclass


@dataclass(frozen=True, slots=True)
class CommandDefaults:
    """The options of commands that do not give these options themselves.

    :ivar cwd: the working directory, an absolute path inside, to which relative paths refer;
        ``None``: the root directory, and relative paths are refused.
    :ivar user: the uid and the gid inside; ``None``: 0 and 0.
    :ivar groups: the supplementary groups of `user`.
    :ivar env: the variables that depend on `user`, such as HOME.
    """

    cwd: str | None = None
    user: tuple[int, int] | None = None
    groups: tuple[int, ...] | None = None
    env: Mapping[str, str] | None = None

    def complete(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the options of a command, completed with these defaults.

        A command with a user of its own gets neither the groups nor the variables of `user`.
        """
        completed = dict(options)
        if self.cwd is not None:
            given = options.get("cwd")
            completed["cwd"] = self.cwd if given is None else _join(self.cwd, given)
        if self.user is None or options.get("user") is not None:
            return completed
        completed["user"] = self.user
        if options.get("groups") is None:
            completed["groups"] = self.groups
        if self.env:
            completed["env"] = {**self.env, **(options.get("env") or {})}
        return completed


def _join(base: str, given: Any) -> Any:
    """Return the directory `given`, absolute if it is a path; its type is checked later."""
    try:
        path = os.fsdecode(given)
    except TypeError:
        return given
    return posixpath.join(base, path) if path else given
