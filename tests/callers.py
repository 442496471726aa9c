"""Facts about the user who runs the tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import usernsctl as un


def may_map_any_id() -> bool:
    """Return whether the caller may map any id. Root in a container may lack this privilege."""
    maps = (Path(f"/proc/self/{kind}_map").read_text().split() for kind in ("uid", "gid"))
    return os.geteuid() == 0 and all(ids == ["0", "0", "4294967295"] for ids in maps)


# Mark of tests that run only as root (tests/conftest.py).
as_root = pytest.mark.as_root
# Mark of tests that do not run as root (tests/conftest.py).
unprivileged = pytest.mark.unprivileged

# An id map with several ids.
MAP_OF_SEVERAL = un.IdMap.extents(["0:0:100"], ["0:0:100"]) if may_map_any_id() else un.IdMap.auto()
# Mark of tests that use MAP_OF_SEVERAL.
several_ids = pytest.mark.userns_requires("userns" if may_map_any_id() else "subid")
