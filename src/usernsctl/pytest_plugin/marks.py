"""Parse the marks ``userns`` and ``userns_requires``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

import pytest

import usernsctl as un
from usernsctl import _core
from usernsctl._system.target import Propagation, selected
from usernsctl.maps import requested
from usernsctl.pytest_plugin.needs import Needs

_ARGUMENTS = ("map", *_core.NAMESPACES, "init", "propagation", "mount_proc")


class Wanted(NamedTuple):
    """The arguments of a ``userns`` mark."""

    idmap: un.IdMap
    namespaces: tuple[str, ...]
    has_init: bool
    propagation: Propagation
    mount_proc: bool

    @property
    def need(self) -> str:
        """The requirement that the mark implies: ``subid`` or ``userns``."""
        fills = {self.idmap.fill_users, self.idmap.fill_groups}
        has_ranges = not fills.isdisjoint({"auto", "subids"}) and not self.idmap.allow_single_id
        return "subid" if has_ranges else "userns"


def wanted(item: pytest.Item) -> Wanted | None:
    """Return the arguments of a test's closest ``userns`` mark, or None if it has no such mark.

    :raises ValueError: the mark has invalid arguments.
    """
    marker = item.get_closest_marker("userns")
    return None if marker is None else _parse(marker)


def required(item: pytest.Item) -> list[Any]:
    """Return the requirements of a test, from its marks ``userns_requires`` and ``userns``.

    :raises ValueError: a mark has invalid arguments.
    """
    words: list[Any] = []
    for marker in item.iter_markers("userns_requires"):
        if marker.kwargs or not marker.args:
            raise ValueError(
                "userns_requires needs positional arguments, as in "
                'userns_requires("subid", "kernel>=5.12")'
            )
        words += marker.args
    mark = wanted(item)
    return words if mark is None else [*words, mark.need]


def check(items: Iterable[pytest.Item], needs: Needs) -> None:
    """Check the marks of tests.

    :raises pytest.UsageError: marks are invalid or conflict with --pdb. The message lists all
        errors.
    """
    mistakes = [problem for item in items if (problem := _problem(item, needs))]
    if mistakes:
        raise pytest.UsageError("\n".join(mistakes))


def _problem(item: pytest.Item, needs: Needs) -> str | None:
    try:
        for word in required(item):
            needs.check(word)
    except (ValueError, pytest.UsageError) as error:
        return f"{item.nodeid}: {error}"
    options = item.config.option
    inside = item.get_closest_marker("userns") is not None
    if inside and (getattr(options, "usepdb", False) or getattr(options, "trace", False)):
        return (
            f"{item.nodeid}: --pdb and --trace need a terminal, which the test's child lacks; "
            "use -m 'not userns'"
        )
    return None


def _parse(marker: pytest.Mark) -> Wanted:
    if marker.args:
        raise ValueError('userns needs keyword arguments, as in userns(map="auto", pid=True)')
    options = dict(marker.kwargs)
    if unknown := sorted(options.keys() - set(_ARGUMENTS)):
        raise ValueError(
            f"userns has no argument {', '.join(unknown)}; it has {', '.join(_ARGUMENTS)}"
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
        raise ValueError("userns: mount_proc needs pid and mount")
    has_init = options.pop("init", None)
    if has_init is not None and not options.get("pid"):
        raise ValueError("userns: init needs pid")
    namespaces = selected(options)
    has_init = "pid" in namespaces if has_init is None else has_init
    return Wanted(idmap, namespaces, has_init, propagation, mount_proc)


def _idmap(given: Any) -> un.IdMap:
    try:
        return requested(given, "map")
    except un.MapError as error:
        raise ValueError(f"userns: map: {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"userns: {error}") from error
