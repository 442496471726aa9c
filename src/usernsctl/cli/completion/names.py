"""Print the names of namespaces and templates, and cause ids, for shell completion."""

from __future__ import annotations

import contextlib
import os

from usernsctl.errors import UsernsError

#: The kinds of names that :func:`print_names` can print.
KINDS = ("namespaces", "templates", "causes")


def print_names(kind: str) -> None:
    """Print the existing names of one kind, one per line.

    Errors are ignored, and no directory is created: the shell calls this function while the user
    types, and messages would disturb the command line. All names match
    :data:`usernsctl._system.paths.NAME`, which allows no characters that are special in a shell.

    :param kind: an element of :data:`KINDS`.
    """
    with contextlib.suppress(UsernsError, OSError):
        for name in {"namespaces": _namespaces, "templates": _templates, "causes": _causes}[kind]():
            print(name)


def _namespaces() -> list[str]:
    from usernsctl._system.paths import state_directory
    from usernsctl.namespaces.named import list_named

    # Check that the state directory exists, because list_named() would create it.
    if not os.path.lexists(state_directory()):
        return []
    return [namespace.name for namespace in list_named()]


def _templates() -> list[str]:
    from usernsctl.gvisor.template import store

    return store.names()


def _causes() -> list[str]:
    from usernsctl.explain.catalogue import catalogue

    return list(catalogue())
