"""Configs for the tests of usernsctl.oci."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from usernsctl.errors import BundleError
from usernsctl.idmap import Extent

ROOT_ONLY = [Extent(0, 1000, 1)]
"""The map of `usernsctl run` for a user whose uid is 1000."""

RANGES = [Extent(0, 1000, 1), Extent(1, 100000, 65535)]


def minimal() -> dict[str, Any]:
    """The least that a config.json must have."""
    return {"process": {"args": ["/bin/true"]}, "root": {"path": "rootfs"}}


def mapping(container: int, host: int, size: int) -> dict[str, int]:
    return {"containerID": container, "hostID": host, "size": size}


def with_user_namespace(
    *mappings: dict[str, int], namespaces: tuple[dict[str, str], ...] = ({"type": "user"},)
) -> dict[str, Any]:
    """A config with a user namespace and the same mappings for uids and gids."""
    both = list(mappings)
    return minimal() | {
        "linux": {"namespaces": list(namespaces), "uidMappings": both, "gidMappings": both}
    }


def changed(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `config` with another value at a path such as ``process.user.uid``."""
    result = copy.deepcopy(config)
    *parents, last = path.split(".")
    parent = result
    for key in parents:
        parent = parent.setdefault(key, {})
    parent[last] = value
    return result


def outcome(function: Callable[..., Any], *args: object) -> Any:
    """What `function` returns, or the BundleError that it raises; any other error is passed on."""
    try:
        return function(*args)
    except BundleError as error:
        return error
