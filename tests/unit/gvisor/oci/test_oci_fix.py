"""Tests of the changes that fix() makes; a second call must make none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oci_configs import RANGES, ROOT_ONLY, changed, mapping, minimal, with_user_namespace

from usernsctl.errors import BundleError
from usernsctl.gvisor.oci import check, fix
from usernsctl.maps import Extent

ROOT_MAPPING = [mapping(0, 0, 1)]
ADDED_ALL = ["$.process.user", "$.linux.namespaces", "$.linux.uidMappings", "$.linux.gidMappings"]


@pytest.mark.parametrize(
    ("linux", "changes"),
    [
        ({}, ADDED_ALL),
        (None, ADDED_ALL),
        ({"namespaces": None, "uidMappings": None, "gidMappings": []}, ADDED_ALL),
        ({"namespaces": [{"type": "user"}]}, [ADDED_ALL[0], *ADDED_ALL[2:]]),
        (with_user_namespace(mapping(0, 100000, 65536))["linux"], [ADDED_ALL[0], *ADDED_ALL[2:]]),
        (with_user_namespace(mapping(0, 0, 4294967295))["linux"], [ADDED_ALL[0], *ADDED_ALL[2:]]),
        (with_user_namespace(mapping(5, 0, 1))["linux"], [ADDED_ALL[0], *ADDED_ALL[2:]]),
        (with_user_namespace(mapping(0, 0, 1))["linux"], ADDED_ALL[:1]),
        (
            with_user_namespace(mapping(0, 0, 1), namespaces=({"type": "pid"},))["linux"],
            ADDED_ALL[:2],
        ),
    ],
)
def test_fix_adds_user_namespace_mappings_and_user(linux: object, changes: list[str]) -> None:
    fixed, changes_made = fix(minimal() | {"linux": linux}, ROOT_ONLY, ROOT_ONLY)
    assert [change.path for change in changes_made] == changes
    assert fixed["process"]["user"] == {"uid": 0, "gid": 0}
    assert {"type": "user"} in fixed["linux"]["namespaces"]
    assert fixed["linux"]["uidMappings"] == ROOT_MAPPING
    assert fixed["linux"]["gidMappings"] == ROOT_MAPPING


def test_fix_adds_a_missing_linux_key() -> None:
    fixed, _ = fix(minimal(), ROOT_ONLY, ROOT_ONLY)
    assert list(fixed) == ["process", "root", "linux"]
    assert fixed["linux"]["namespaces"] == [{"type": "user"}]


def test_fix_maps_each_extent_to_itself() -> None:
    gids = [Extent(0, 1000, 1), Extent(5, 7000, 3)]
    fixed, changes = fix(minimal(), RANGES, gids)
    assert fixed["linux"]["uidMappings"] == [mapping(0, 0, 1), mapping(1, 1, 65535)]
    assert fixed["linux"]["gidMappings"] == [mapping(0, 0, 1), mapping(5, 5, 3)]
    assert changes[-1].text == "added 0:0:1, 5:5:3"


def test_fix_keeps_valid_mappings() -> None:
    config = with_user_namespace(mapping(0, 5, 10))
    fixed, changes = fix(config, RANGES, RANGES)
    assert fixed["linux"] == config["linux"]
    assert [change.path for change in changes] == ["$.process.user"]


def test_fix_creates_a_user_namespace_in_place_of_joining() -> None:
    joins = ({"type": "pid"}, {"type": "user", "path": "/proc/1/ns/user"})
    fixed, changes = fix(with_user_namespace(*ROOT_MAPPING, namespaces=joins), ROOT_ONLY, ROOT_ONLY)
    assert fixed["linux"]["namespaces"] == [{"type": "pid"}, {"type": "user"}]
    assert changes[-1].path == "$.linux.namespaces[1].path"
    assert changes[-1].text == "removed /proc/1/ns/user"


def test_fix_keeps_the_user() -> None:
    config = changed(minimal(), "process.user", {"uid": 7, "gid": 8, "umask": 18})
    fixed, _ = fix(config, ROOT_ONLY, ROOT_ONLY)
    assert fixed["process"] == config["process"]


def test_fix_refuses_an_invalid_config() -> None:
    with pytest.raises(BundleError, match=r"\$\.linux\.namespaces"):
        fix(minimal() | {"linux": {"namespaces": "user"}}, ROOT_ONLY, ROOT_ONLY)


ids = st.integers(0, 2**17)
mappings = st.none() | st.lists(st.builds(mapping, ids, ids, st.integers(1, 2**17)), max_size=3)
namespace = st.fixed_dictionaries(
    {"type": st.sampled_from(["user", "pid", "network"])},
    optional={"path": st.sampled_from(["", "/proc/1/ns/x"]), "vendor": st.integers()},
)
linux = st.none() | st.fixed_dictionaries(
    {"vendor": st.integers()},
    optional={
        "namespaces": st.none() | st.lists(namespace, max_size=3),
        "uidMappings": mappings,
        "gidMappings": mappings,
    },
)
user = st.none() | st.fixed_dictionaries({"umask": st.just(18)}, optional={"uid": ids, "gid": ids})
configs = st.builds(
    lambda linux, user, vendor: {
        "vendor": vendor,
        "process": {"args": ["a"], "vendor": vendor, "user": user},
        "root": {"path": "/", "readonly": True},
        "linux": linux,
        "hooks": {},
    },
    linux,
    user,
    st.lists(st.integers()),
)


def without_fixed_parts(config: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of `config` that fix() must neither change nor reorder."""
    rest = copy.deepcopy(config)
    rest["process"].pop("user", None)
    ours = rest["linux"] = rest["linux"] or {}
    for key in ("namespaces", "uidMappings", "gidMappings"):
        ours.pop(key, None)
    return rest


@given(configs, st.sampled_from([ROOT_ONLY, RANGES]))
@settings(deadline=None)
def test_second_fix_changes_nothing(config: dict[str, Any], extents: list[Extent]) -> None:
    before = copy.deepcopy(config)
    fixed, changes = fix(config, extents, extents)
    assert config == before
    assert bool(changes) == (fixed != config)
    assert fix(fixed, extents, extents) == (fixed, [])
    assert without_fixed_parts(fixed) == without_fixed_parts(config)
    assert list(fixed) == list(config)
    findings = check(fixed, Path("/"), extents, extents)
    assert not [finding for finding in findings if finding.fixable]
