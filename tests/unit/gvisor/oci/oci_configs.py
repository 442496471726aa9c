"""Sample config.json files and helper functions for the tests of usernsctl.gvisor.oci."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from usernsctl.errors import BundleError
from usernsctl.maps import Extent

ROOT_ONLY = [Extent(0, 1000, 1)]
"""The uid map of `usernsctl run` for a user whose uid is 1000."""

RANGES = [Extent(0, 1000, 1), Extent(1, 100000, 65535)]


def minimal() -> dict[str, Any]:
    """Return a config.json with only the required keys."""
    return {"process": {"args": ["/bin/true"]}, "root": {"path": "rootfs"}}


def mapping(container: int, host: int, size: int) -> dict[str, int]:
    return {"containerID": container, "hostID": host, "size": size}


def with_user_namespace(
    *mappings: dict[str, int], namespaces: tuple[dict[str, str], ...] = ({"type": "user"},)
) -> dict[str, Any]:
    """Return a config with a user namespace, and with `mappings` as uidMappings and gidMappings."""
    both = list(mappings)
    return minimal() | {
        "linux": {"namespaces": list(namespaces), "uidMappings": both, "gidMappings": both}
    }


def changed(config: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return a copy of `config` with `value` at a path such as ``process.user.uid``."""
    result = copy.deepcopy(config)
    *parents, last = path.split(".")
    parent = result
    for key in parents:
        parent = parent.setdefault(key, {})
    parent[last] = value
    return result


def outcome(function: Callable[..., Any], *args: object) -> Any:
    """Return the result of `function`, or the BundleError that it raises."""
    try:
        return function(*args)
    except BundleError as error:
        return error


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Return the path of `value` and the paths of all values within it."""
    members: Any = ()
    if isinstance(value, dict):
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    return [path, *(p for key, member in members for p in places(member, (*path, key)))]


RICH = minimal() | {
    "hostname": "box",
    "annotations": {"a": "b"},
    "mounts": [{"destination": "/x", "type": "bind", "source": "/", "options": ["ro"]}],
    "linux": {
        "namespaces": [{"type": "user"}, {"type": "pid", "path": "/x"}],
        "uidMappings": [mapping(0, 0, 1)],
        "devices": [],
    },
}


def mutated(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """Return a copy of RICH with `value` at `path`."""
    config: Any = copy.deepcopy(RICH)
    parent = config
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return config  # type: ignore[no-any-return]


def objects(
    keys: st.SearchStrategy[str], members: st.SearchStrategy[Any], max_size: int | None = None
) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for JSON objects without keys that differ only in case."""
    pairs = st.lists(st.tuples(keys, members), max_size=max_size, unique_by=_folded)
    return pairs.map(dict)


def _folded(pair: tuple[str, Any]) -> str:
    return pair[0].casefold()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
paths = st.builds("/".join, st.lists(st.sampled_from(["", ".", "..", "x" * 300, "proc", "self"])))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | paths,
    lambda inner: st.lists(inner, max_size=3) | objects(texts, inner, max_size=3),
    max_leaves=5,
)
mutations = st.builds(mutated, st.sampled_from(places(RICH)[1:]), json_values)
"""Copies of RICH in which one value is replaced by a wrong value, or by an unusual valid one."""
