"""Tests of the errors of maps with several ids, each test with one misconfiguration."""

from __future__ import annotations

import pytest
from broken_machine import PRELUDE, USERNSCTL, diagnose, named_by_command, run_broken
from callers import as_root

pytestmark = as_root

AUTO = ["-r", "--map-auto"]

#: Misconfigurations (see broken.py) and the ids of their causes.
CASES = [
    ("helpers-missing", "helper-missing"),
    ("helpers-powerless", "helper-not-setuid"),
    ("helpers-nosuid", "helper-on-nosuid"),
    ("no-new-privs", "no-new-privs"),
    ("bounded", "bounding-set"),
    ("nameless", "no-passwd-entry"),
    ("other-group", "gid-differs-from-passwd"),
    ("no-ranges", "no-subordinate-range"),
    ("ranges-unreadable", "subid-file-unreadable"),
    ("ranges-of-service", "nss-subid"),
    ("few-ids", "range-outside-parent"),
]


@pytest.mark.parametrize(("way", "cause"), CASES)
@pytest.mark.sampled(6)
def test_doctor_and_the_failing_command_name_the_cause(way: str, cause: str) -> None:
    assert named_by_command([way], *AUTO) == cause
    found = diagnose([way], "range")
    assert found.status == 1
    assert (found.ids, found.blocking) == ([cause], [cause])


@pytest.mark.parametrize(("way", "cause"), CASES)
@pytest.mark.sampled(3)
def test_missing_ranges_do_not_block_a_map_of_one_id(way: str, cause: str) -> None:
    found = diagnose([way])
    assert found.status == 0
    assert (found.ids, found.blocking) == ([cause], [])


def test_run_and_ns_create_name_the_same_range_to_grant() -> None:
    create = 'XDG_RUNTIME_DIR=$(mktemp -d); export XDG_RUNTIME_DIR; "$@"; rm -r "$XDG_RUNTIME_DIR"'
    output = [
        run_broken(["no-ranges"], command).stderr.splitlines()[-1]
        for command in (
            [PRELUDE, *AUTO, "--", "true"],
            ["sh", "-c", create, "sh", USERNSCTL, "ns", "create", "web", *AUTO],
        )
    ]
    assert output[0].startswith("  remedy: usermod --add-subuids ")
    assert output[0].endswith("    # as root")
    assert "USER" not in output[0]
    assert output[1] == output[0]


def test_doctor_finds_an_entry_by_gid() -> None:
    # usernsctl-exec does not search for an entry by gid, because this would take too long. doctor
    # does.
    assert named_by_command(["gid-entry"], *AUTO) == "no-subordinate-range"
    assert diagnose(["gid-entry"], "range").ids == ["subgid-by-gid"]


def test_shared_ranges_are_a_warning() -> None:
    found = diagnose(["ranges-shared"], "range")
    assert (found.status, found.ids, found.blocking) == (0, ["ranges-shared"], [])
    (finding,) = found.report["findings"]
    assert "somebody" in finding["evidence"][0]


def test_overlapping_ranges_of_one_user_are_allowed() -> None:
    assert diagnose(["ranges-overlap"], "range").ids == []


def test_two_causes_of_missing_ranges_are_named() -> None:
    ways = ["no-ranges", "helpers-powerless"]
    assert named_by_command(ways, *AUTO) == "no-subordinate-range"
    assert diagnose(ways, "range").blocking == ["no-subordinate-range", "helper-not-setuid"]


def test_blocking_causes_precede_warnings() -> None:
    found = diagnose(["helpers-powerless", "proc-read-only"])
    assert found.ids == ["proc-read-only", "helper-not-setuid"]
    assert found.blocking == ["proc-read-only"]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--map-users", "1:5000000:10"], "range-not-granted"),
        (["--map-users", "1:100000:10", "--map-users", "5:100020:10"], "map-invalid"),
        (["--map-users", "1:100000:10", "--map-users", "20:100005:10"], "map-invalid"),
    ],
)
def test_impossible_maps_are_named(options: list[str], cause: str) -> None:
    assert named_by_command([], "-r", *options) == cause
