"""Tests of all values of the argument `idmap`, and of the warning if only one id is mapped."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from callers import as_root, several_ids, unprivileged

import usernsctl as un

pytestmark = pytest.mark.each_user

UID = os.geteuid()
UID_MAP = ["cat", "/proc/self/uid_map"]


def extents(text: str) -> list[un.Extent]:
    return [un.Extent(*map(int, line.split())) for line in text.splitlines()]


@pytest.mark.parametrize("word", ["root", "current", "auto", "subids", "all"])
def test_run_writes_the_map_that_plan_returns(word: Any) -> None:
    try:
        wanted = un.plan(word)
    except un.PlanError as error:
        with pytest.raises(un.PlanError) as caught:
            un.run(["true"], idmap=word)
        assert str(caught.value) == str(error)
        return
    assert extents(un.check_output(UID_MAP, idmap=word, text=True)) == list(wanted.uid)
    assert any(extent.has_outside(UID) for extent in wanted.uid)


def test_run_with_idmap_extents_for_both() -> None:
    if os.getegid() != UID:
        pytest.skip("the uid and the gid are two numbers")
    shown = un.check_output(["sh", "-c", "id -u; id -g"], idmap=[f"7:{UID}:1"], text=True)
    assert shown.split() == ["7", "7"]


@several_ids
@unprivileged
def test_run_with_idmap_auto_and_subids() -> None:
    assert un.check_output(["id", "-u"], idmap="auto", text=True) == "0\n"
    assert un.check_output(["id", "-u"], idmap="subids", text=True) == f"{UID}\n"


@as_root
def test_run_with_idmap_all() -> None:
    assert un.check_output(["id", "-u"], idmap="all", text=True) == "0\n"


@pytest.fixture
def single(monkeypatch: pytest.MonkeyPatch) -> un.IdMap:
    """Return an id map that the caller can't write, and that allows a fallback to a single id."""
    monkeypatch.setenv("PATH", "/no/such/directory")
    if UID == 0:
        # Root needs no helpers to map given ids. But root has no subordinate ranges on the test
        # host, so an automatic map is impossible.
        return un.IdMap.auto(allow_single_id=True)
    return un.IdMap(
        map_user=0, map_group=0, map_users=(un.Extent(1, 2**32 - 2, 1),), allow_single_id=True
    )


def test_allow_single_id_warns_when_only_one_id_is_mapped(single: un.IdMap) -> None:
    reason = un.plan(single).single_id_reason
    assert reason
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert un.run(["/usr/bin/true"], idmap=single).returncode == 0
        un.Namespace.create(single).close()
        with un.Popen(["/usr/bin/true"], idmap=single) as process:
            assert process.wait() == 0
    told = [(one.category, str(one.message), one.filename) for one in caught]
    says = f"mapping only the caller's own id, as allow_single_id permits: {reason}"
    assert told == [(un.SingleIdWarning, says, __file__)] * 3


def test_allow_single_id_warns_for_a_named_namespace(
    single: un.IdMap, runtime: Path, usernsctl: Any
) -> None:
    reason = un.plan(single).single_id_reason
    try:
        with pytest.warns(un.SingleIdWarning) as caught:
            un.Namespace.open_or_create("single", single).close()
        assert str(caught[0].message).endswith(f"permits: {reason}")
        assert caught[0].filename == __file__
    finally:
        assert usernsctl("ns", "remove", "single", env=dict(os.environ)).returncode == 0


def test_allow_single_id_does_not_warn_for_a_map_of_one_id() -> None:
    idmap = un.IdMap(map_user=0, map_group=0, allow_single_id=True)
    assert un.check_output(UID_MAP, idmap=idmap, text=True).split() == ["0", str(UID), "1"]
