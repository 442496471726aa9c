"""Tests of ``usernsctl plan`` with text and JSON output."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from callers import unprivileged
from conftest import Program

import usernsctl as un
from usernsctl.cli import main

pytestmark = pytest.mark.each_user

UID, GID = os.geteuid(), os.getegid()


def plan_json(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    assert main(["plan", "--json", *options]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    result: dict[str, Any] = json.loads(output.out)
    return result


def extents(output_json: dict[str, Any], kind: str) -> list[tuple[int, int, int]]:
    return [(e["inside"], e["outside"], e["count"]) for e in output_json[kind]["extents"]]


@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        (["-r"], [(0, UID, 1)], [(0, GID, 1)]),
        (["--map-root-user"], [(0, UID, 1)], [(0, GID, 1)]),
        (["-c"], [(UID, UID, 1)], [(GID, GID, 1)]),
        (["--map-user", "7"], [(7, UID, 1)], []),
        (["--map-group=8"], [], [(8, GID, 1)]),
        (["-r", "--map-user=7"], [(7, UID, 1)], [(0, GID, 1)]),
        ([f"--map-users=5:{UID}:1"], [(5, UID, 1)], []),
        (["-r", "--allow-single-id"], [(0, UID, 1)], [(0, GID, 1)]),
    ],
)
def test_caller_writes_map_of_own_id(
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    uid: list[tuple[int, int, int]],
    gid: list[tuple[int, int, int]],
) -> None:
    output_json = plan_json(capsys, *options)
    assert extents(output_json, "uid") == uid
    assert extents(output_json, "gid") == gid
    assert output_json["uid"]["writer"] == ("self" if uid else "none")
    assert output_json["gid"]["writer"] == ("self" if gid else "none")
    assert output_json["uid"]["reason"] == (
        "one id, the caller's own" if uid else "no map was requested"
    )
    assert output_json["setgroups"] == ("deny" if gid else "auto")
    assert output_json["single_id_reason"] is None
    assert output_json["uid"]["clipped"] == output_json["gid"]["clipped"] == []


def test_json_equals_the_plan_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    output_json = plan_json(capsys, "--map-auto", "-r", "--allow-single-id")
    plan = un.plan(un.IdMap.auto(allow_single_id=True))
    assert extents(output_json, "uid") == [tuple(extent) for extent in plan.uid]
    assert extents(output_json, "gid") == [tuple(extent) for extent in plan.gid]
    assert output_json["single_id_reason"] == plan.single_id_reason
    assert output_json["notices"] == list(plan.notices)
    assert (output_json["uid"]["writer"], output_json["gid"]["writer"]) == (
        plan.uid_writer,
        plan.gid_writer,
    )


@pytest.mark.parametrize("options", [[], ["--allow-single-id"]])
def test_plan_without_map_options_is_the_default_map_of_run(
    capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """Check that plan, by default, plans a single id, which needs no subordinate ranges."""
    alone = plan_json(capsys, *options)
    assert alone == plan_json(capsys, "-r")
    assert (extents(alone, "uid"), extents(alone, "gid")) == ([(0, UID, 1)], [(0, GID, 1)])


def test_plan_without_map_options_heeds_setgroups(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan_json(capsys, "--setgroups=deny") == plan_json(capsys, "-r", "--setgroups=deny")


def test_plan_text_shows_extents_with_bars(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-r"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    # Compare the whole output, in which only the uid and the gid depend on the user.
    assert [line.replace("━▶", "=>").split() for line in output.out.splitlines()] == [
        ["uid", "map,", "written", "by", "self:", "one", "id,", "the", "caller's", "own"],
        ["inside", "outside", "count"],
        ["0", "=>", str(UID), "1"],
        ["gid", "map,", "written", "by", "self:", "one", "id,", "the", "caller's", "own"],
        ["inside", "outside", "count"],
        ["0", "=>", str(GID), "1"],
        ["setgroups:", "deny"],
    ]


@pytest.mark.parametrize(
    ("locale", "bar"),
    [({"LC_ALL": "C"}, "="), ({"LC_ALL": "C.UTF-8"}, "━"), ({"LANG": "C.UTF-8"}, "━")],
)
@pytest.mark.parametrize("most", [1, 4294967295])
def test_bars_use_characters_of_the_locale(
    usernsctl: Program, locale: dict[str, str], bar: str, most: int
) -> None:
    options = ["-r"] if most == 1 or UID else ["--map-users=0:0:4294967295"]
    done = usernsctl("plan", *options, env={"PATH": os.environ["PATH"], **locale})
    assert (done.returncode, done.stderr) == (0, "")
    assert bar in done.stdout
    assert done.stdout.isascii() is (bar == "=")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_text_explains_single_id_fallback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that plan explains why it maps a single id if newuidmap is missing."""
    monkeypatch.setenv("PATH", "/no/such/directory")
    arguments = ["plan", "--map-users=1:4294967294:1", "-r", "--allow-single-id"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    if UID == 0:
        assert "written by parent" in output
    else:
        assert "one id only, as --allow-single-id allows: " in output
        assert "or newuidmap: the program is in no directory of PATH" in output


@unprivileged
def test_plan_without_newuidmap_fails_with_helper_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/no/such/directory")
    assert main(["plan", "-r", "--map-users=1:4294967294:1"]) == 125
    output = capsys.readouterr()
    assert output.out == ""
    first, why, *remedy = output.err.splitlines()
    assert first.startswith("usernsctl: plan: mapping other uids needs CAP_SETUID")
    assert why.endswith("[helper-missing]")
    assert "apt-get install --reinstall uidmap" in "".join(remedy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--map-users=0:0"], '"0:0" is not an extent'),
        (["--map-users=x"], '"x" is not an extent'),
        (["--map-users=0:0:0"], "maps no id"),
        (["--map-groups=4294967295:0:2"], "goes past 4294967294"),
        (["-r", f"--map-users=0:{UID + 1}:1"], "overlap inside"),
        (["-r", f"--map-users=1:{UID}:1"], "overlap outside"),
        (["--map-user=x"], "--map-user"),
        (["--map-user=-1"], "'-1' is not a whole number from 0 to 4294967294"),
        (["--map-group=4294967295"], "'4294967295' is not a whole number from 0 to 4294967294"),
        (["--setgroups=maybe"], "--setgroups"),
        (["--bogus"], "--bogus"),
        (["word"], "word"),
    ],
)
def test_invalid_plan_options_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["plan", *options]) == 125
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert "Traceback" not in output.err
