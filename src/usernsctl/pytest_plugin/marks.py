"""What the marks ``userns`` and ``requires`` on a test ask for."""

from __future__ import annotations

from typing import Any, NamedTuple, get_args

import pytest

import usernsctl as un
from usernsctl import _core
from usernsctl.commands.target import Propagation, selected
from usernsctl.maps import requested

MARKERS = (
    'userns(map="root", mount=False, net=False, pid=False, ipc=False, uts=False, cgroup=False, '
    'time=False, propagation="private", mount_proc=False): run the test in a user namespace of '
    'its own. map is "root", "current", "auto", "subids", "all", an IdMap, or extents for uids and '
    "gids alike.",
    "requires(word, ...): skip the test where the machine lacks userns, subid, runsc, docker, "
    "kernel>=VERSION or cap:NAME, with the reason.",
)

_ARGUMENTS = ("map", *_core.NAMESPACES, "propagation", "mount_proc")


class Wanted(NamedTuple):
    """What a ``userns`` mark asks for."""

    idmap: un.IdMap
    namespaces: tuple[str, ...]
    propagation: Propagation
    mount_proc: bool

    @property
    def need(self) -> str:
        """The word for what it requires of the machine."""
        fills = {self.idmap.fill_users, self.idmap.fill_groups}
        has_ranges = not fills.isdisjoint({"auto", "subids"}) and not self.idmap.allow_single_id
        return "subid" if has_ranges else "userns"


def wanted(item: pytest.Item) -> Wanted | None:
    """What the nearest ``userns`` mark of a test asks for, if it has one.

    :raises ValueError: the mark is wrong.
    """
    marker = item.get_closest_marker("userns")
    return None if marker is None else _read(marker)


def required(item: pytest.Item) -> list[Any]:
    """The words of all ``requires`` marks of a test.

    :raises ValueError: a mark is wrong.
    """
    words: list[Any] = []
    for marker in item.iter_markers("requires"):
        if marker.kwargs or not marker.args:
            raise ValueError('requires takes words, as in requires("subid", "kernel>=5.12")')
        words += marker.args
    return words


def _read(marker: pytest.Mark) -> Wanted:
    if marker.args:
        raise ValueError('userns takes its arguments by name, as in userns(map="auto", pid=True)')
    options = dict(marker.kwargs)
    if unknown := sorted(options.keys() - set(_ARGUMENTS)):
        raise ValueError(
            f"userns has no argument {', '.join(unknown)}; there are {', '.join(_ARGUMENTS)}"
        )
    idmap = _idmap(options.pop("map", "root"))
    propagation = options.pop("propagation", "private")
    if propagation not in get_args(Propagation):
        known = ", ".join(get_args(Propagation))
        raise ValueError(f"userns: propagation must be one of {known}, not {propagation!r}")
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ValueError(f"userns: {name} must be True or False, not {value!r}")
    mount_proc = options.pop("mount_proc", False)
    if mount_proc and not (options.get("pid") and options.get("mount")):
        raise ValueError("userns: mount_proc takes pid and mount as well")
    return Wanted(idmap, selected(options), propagation, mount_proc)


def _idmap(given: Any) -> un.IdMap:
    try:
        return requested(given, "map")
    except un.MapError as error:
        raise ValueError(f"userns: map: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"userns: {error}") from error
