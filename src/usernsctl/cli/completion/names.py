"""The names that there are, for a shell that completes one."""

from __future__ import annotations

import contextlib
import os

from usernsctl.errors import UsernsError

#: What has names.
KINDS = ("namespaces", "templates")


def tell(kind: str) -> None:
    """Print the names that there are, one a line.

    Nothing is printed and nothing made where they can't be told: a shell asks while a line is
    typed, where no message belongs. Each is one of :data:`usernsctl._system.records.NAME`, in which
    no shell finds more than a word.

    :param kind: one of :data:`KINDS`.
    """
    with contextlib.suppress(UsernsError, OSError):
        for name in _namespaces() if kind == "namespaces" else _templates():
            print(name)


def _namespaces() -> list[str]:
    from usernsctl._system.paths import state_directory
    from usernsctl.namespaces.named import list_named

    # To list them would make it.
    return [one.name for one in list_named()] if os.path.lexists(state_directory()) else []


def _templates() -> list[str]:
    from usernsctl.gvisor.template import store

    return store.names()
