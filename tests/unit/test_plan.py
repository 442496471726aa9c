"""Tests of plan() for this process: the planned id maps, and the errors for impossible requests."""

from __future__ import annotations

import os
from typing import Any

import pytest
from callers import as_root, unprivileged

import usernsctl as un
from usernsctl import Extent, IdMap

pytestmark = pytest.mark.each_user

UID, GID = os.geteuid(), os.getegid()


def test_root_map_has_only_the_caller() -> None:
    plan = un.plan(IdMap.root())
    assert plan.uid == (Extent(0, UID, 1),)
    assert plan.gid == (Extent(0, GID, 1),)
    assert (plan.uid_writer, plan.gid_writer) == ("self", "self")
    assert plan.uid_reason
    assert plan.setgroups == "deny"
    assert plan.become == (0, 0)
    assert not plan.drop_groups


def test_current_map_keeps_the_ids_of_the_caller() -> None:
    plan = un.plan(IdMap.current())
    assert plan.uid == (Extent(UID, UID, 1),)
    assert plan.become == (UID, GID)


def test_empty_map_maps_nothing() -> None:
    plan = un.plan(IdMap())
    assert (plan.uid, plan.gid) == ((), ())
    assert (plan.uid_writer, plan.gid_writer) == ("none", "none")
    assert plan.become == (-1, -1)
    assert plan.setgroups == "auto"


def test_the_same_request_gives_the_same_plan() -> None:
    assert un.plan(IdMap.root()) == un.plan(IdMap.root())


@as_root
def test_root_can_map_any_ids() -> None:
    plan = un.plan(IdMap.extents(["0:100000:10", "20:0:1"], ["0:200000:10"]))
    assert plan.uid == (Extent(0, 100000, 10), Extent(20, 0, 1))
    assert (plan.uid_writer, plan.gid_writer) == ("parent", "parent")
    assert plan.setgroups == "auto"
    assert plan.become == (20, 0)
    assert plan.drop_groups


@unprivileged
def test_ids_outside_of_granted_ranges_raise() -> None:
    with pytest.raises(un.PlanError) as caught:
        un.plan(IdMap.extents(["0:4000000000:2"], []))
    assert caught.value.step in ("plan", "subordinate ranges")
    assert caught.value.cause
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("uids", "reason"),
    [
        (["0:10:2", "1:20:1"], "0:10:2 and 1:20:1 overlap inside"),
        (["0:10:2", "5:11:1"], "0:10:2 and 5:11:1 overlap outside"),
        ([(0, 10, 0)], "the count must be 1 or more"),
        ([(4294967295, 0, 2)], "goes past 4294967294"),
        ([(-1, 0, 1)], "each number must be from 0 to 4294967295"),
        ([(0, 1 << 32, 1)], "each number must be from 0 to 4294967295"),
        ([(0, 1.5, 1)], "each number must be from 0 to 4294967295"),
        ([(0, "1", 1)], "each number must be from 0 to 4294967295"),
        ([(n, 100000 + n, 1) for n in range(0, 682, 2)], "no more than 340 extents"),
    ],
)
def test_invalid_extents_raise(uids: list[Any], reason: str) -> None:
    for idmap in (IdMap.extents(uids, []), IdMap.extents([], uids)):
        with pytest.raises(un.MapError, match=reason) as caught:
            un.plan(idmap)
        assert caught.value.cause == "map-invalid"


def test_map_text_of_a_page_or_more_raises() -> None:
    longest = [(4000000000 + n, 4100000000 + n, 1) for n in range(0, 680, 2)]
    page = os.sysconf("SC_PAGESIZE")
    assert len(longest) * 24 >= page, "this page takes any map"
    with pytest.raises(un.MapError, match=f"less than a page of {page}"):
        un.plan(IdMap.extents(longest, []))


@pytest.mark.parametrize("own", [-1, 4294967295, 1 << 40])
def test_impossible_own_id_raises(own: int) -> None:
    for idmap in (IdMap(map_user=own), IdMap(map_group=own)):
        with pytest.raises(un.MapError, match="an id is a number from 0 to 4294967294"):
            un.plan(idmap)
