"""Tests of extents and id maps, and of the errors for invalid ones."""

from __future__ import annotations

import os
from typing import Any

import pytest

from usernsctl import Extent, IdMap, MapError, plan
from usernsctl.maps import requested


def test_extent_is_parsed_and_printed_as_by_unshare() -> None:
    extent = Extent.parse("0:100000:65536")
    assert extent == Extent(0, 100000, 65536)
    assert tuple(extent) == (0, 100000, 65536)
    assert str(extent) == "0:100000:65536"


# Invalid extents that the Python binding could accept or truncate by mistake: with digits that
# int() accepts, or with a NUL. tests/c/map/test_idmap.c tests other invalid texts.
@pytest.mark.parametrize(
    "text",
    [
        "",
        "1e3:0:1",
        "1_0:0:1",
        "\u0661:0:1",
        "99999999999999999999:0:1",
        "0:0:1\0",
        "0:0:1\0:2",
        "\ud800:0:1",
        "x" * 100000,
    ],
)
def test_malformed_extent_raises(text: str) -> None:
    with pytest.raises(MapError, match="is not an extent, inside:outside:count") as caught:
        Extent.parse(text)
    assert caught.value.cause == "map-invalid"
    assert caught.value.step == "argument"
    assert caught.value.remedy
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_extent_beyond_the_last_id_raises() -> None:
    with pytest.raises(MapError, match="goes past 4294967294") as caught:
        Extent.parse("1:0:4294967295")
    assert "1:0:4294967295" in str(caught.value)


@pytest.mark.each_user
def test_root_current_and_empty_maps() -> None:
    assert IdMap.root() == IdMap(map_user=0, map_group=0)
    assert IdMap.current() == IdMap(map_user=os.geteuid(), map_group=os.getegid())
    assert IdMap() == IdMap.extents([], [])


def test_extents_may_be_objects_tuples_or_strings() -> None:
    given: list[Any] = [Extent(0, 1, 2), (3, 4, 5), "6:7:8"]
    idmap = IdMap.extents(given, iter(given), setgroups="allow")
    assert idmap.map_users == (Extent(0, 1, 2), Extent(3, 4, 5), Extent(6, 7, 8))
    assert idmap.map_groups == idmap.map_users
    assert idmap.setgroups == "allow"
    with pytest.raises(MapError):
        IdMap.extents(["0:0"], [])


def test_invalid_setgroups_policy_raises() -> None:
    with pytest.raises(ValueError, match="setgroups must be auto, allow or deny, not 'maybe'"):
        IdMap(setgroups="maybe")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["root", 1.5])
def test_own_id_of_another_type_raises(given: Any) -> None:
    for name in ("map_user", "map_group"):
        with pytest.raises(TypeError, match="map_user and map_group must be numbers, not "):
            plan(IdMap(**{name: given}))


def test_id_maps_are_hashable_and_immutable() -> None:
    assert hash(IdMap.root()) == hash(IdMap.root())
    with pytest.raises(AttributeError):
        IdMap.root().map_user = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (None, IdMap.root()),
        ("root", IdMap.root()),
        ("current", IdMap.current()),
        ("auto", IdMap.auto()),
        (
            "subids",
            IdMap(
                map_user=os.geteuid(),
                map_group=os.getegid(),
                fill_users="subids",
                fill_groups="subids",
            ),
        ),
        ("all", IdMap(fill_users="all", fill_groups="all")),
        (IdMap.keep_id(7), IdMap.keep_id(7)),
        (["0:5:1"], IdMap.extents(["0:5:1"], ["0:5:1"])),
        (((0, 5, 1), Extent(1, 9, 2)), IdMap.extents(["0:5:1", "1:9:2"], ["0:5:1", "1:9:2"])),
        ([], IdMap()),
    ],
)
def test_idmap_argument_may_be_a_name_or_extents(given: Any, wanted: IdMap) -> None:
    assert requested(given) == wanted


@pytest.mark.parametrize(
    "given", [7, True, object(), 1.5, [7], [None], [(0, 1)], [("0", "1", "2")], {0: 1}, b"auto"]
)
def test_idmap_argument_of_another_type_raises_typeerror(given: Any) -> None:
    message = (
        r"^idmap must be an IdMap, one of 'root', 'current', 'auto', 'subids', 'all', or extents"
    )
    with pytest.raises(TypeError, match=message):
        requested(given)
    with pytest.raises(TypeError, match=message):
        plan(given)


@pytest.mark.parametrize("given", ["autp", "", "0:0:1", "ROOT"])
def test_unknown_name_of_an_idmap_raises_valueerror(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^idmap must be one of 'root', .* not '.*'$"):
        requested(given)


@pytest.mark.parametrize(
    ("first", "count", "is_in"),
    [(9, 1, False), (10, 1, True), (14, 1, True), (15, 1, False), (10, 5, True), (10, 6, False)],
)
def test_extent_has_its_ids(first: int, count: int, is_in: bool) -> None:
    assert Extent(10, 100, 5).has(first, count) is is_in
    assert Extent(100, 10, 5).has_outside(first) is (10 <= first < 15)


def test_extent_outside_of_a_list_raises() -> None:
    with pytest.raises(TypeError, match=r"must be in a list, as in \['0:1000:1'\]"):
        IdMap.extents("0:1000:1", [])
