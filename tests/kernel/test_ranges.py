"""Tests that maps of subordinate ranges are as planned, and the same as those of unshare(1)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from callers import unprivileged
from conftest import Program
from inside import PATIENCE
from processes import capture

import usernsctl as un

pytestmark = [unprivileged, pytest.mark.userns_requires("subid")]

MAPS = ["cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"]
UID, GID = os.geteuid(), os.getegid()


@pytest.fixture
def granted() -> tuple[int, int]:
    """Return the caller's first subordinate uid and gid."""
    firsts = []
    for option in ([], ["-g"]):
        line = subprocess.check_output(["getsubids", *option, os.environ["USER"]], text=True)
        firsts.append(int(line.split()[2]))
    return firsts[0], firsts[1]


def maps(*command: str | Path) -> list[str]:
    done = capture([*command, "--", *MAPS], timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    "options",
    [
        ["-r", "--map-auto"],
        ["-c", "--map-auto"],
        ["--map-auto"],
        ["--map-auto", "--map-user=7"],
        ["--map-auto", "--map-group=7"],
        ["-r", "--map-users=auto"],
        ["-r", "--map-groups=auto"],
        ["-r", "--map-subids"],
        ["-c", "--map-subids"],
        ["--map-subids", "--setgroups=deny"],
    ],
)
def test_maps_are_as_planned(prelude: Program, usernsctl: Program, options: list[str]) -> None:
    output = json.loads(usernsctl("plan", "--json", *options).stdout)
    wanted = [
        str(extent[number])
        for kind in ("uid", "gid")
        for extent in output[kind]["extents"]
        for number in ("inside", "outside", "count")
    ]
    wanted.append("allow" if output["setgroups"] == "auto" else output["setgroups"])
    assert maps(prelude.path, *options) == wanted


def test_maps_of_ranges_match_unshare(prelude: Program, granted: tuple[int, int]) -> None:
    uid, gid = granted
    users, groups = f"--map-users=0:{uid}:9", f"--map-groups=0:{gid}:9"
    for options in (
        [users, groups],
        [f"--map-users=1:{uid}:9", f"--map-groups=1:{gid}:9", "-r"],
        ["--map-auto"],
        ["-r", "--map-subids"],
        ["-c", "--map-subids"],
    ):
        ours = maps(prelude.path, *options)
        theirs = maps("unshare", *options)
        # Ignore the order of the extents, which has no effect.
        assert sorted_extents(ours) == sorted_extents(theirs), options


def sorted_extents(words: list[str]) -> list[tuple[str, ...]]:
    *numbers, setgroups = words
    extents = [tuple(numbers[i : i + 3]) for i in range(0, len(numbers), 3)]
    return [*sorted(extents), (setgroups,)]


@pytest.mark.parametrize("own", ["-r", "-c"])
def test_more_ids_are_mapped_than_by_unshare(
    prelude: Program, granted: tuple[int, int], own: str
) -> None:
    def count(words: list[str]) -> int:
        return sum(int(number) for number in words[2:-1:3])

    ours = count(maps(prelude.path, own, "--map-auto"))
    theirs = count(maps("unshare", own, "--map-auto"))
    assert theirs < ours
    plan = un.plan(un.IdMap.auto())
    assert ours == sum(extent.count for extent in (*plan.uid, *plan.gid))


def test_files_have_mapped_owners_inside_and_outside(
    prelude: Program, granted: tuple[int, int], tmp_path: Path
) -> None:
    script = (
        "touch own first thousandth && chown 1:1 first && chown 1000:1001 thousandth &&"
        " stat -c %u:%g own first thousandth"
    )
    done = prelude("-r", "--map-auto", "--", "sh", "-c", script, cwd=tmp_path)
    assert (done.stdout.split(), done.stderr) == (["0:0", "1:1", "1000:1001"], "")
    uid, gid = granted
    owners = {
        name: ((tmp_path / name).stat().st_uid, (tmp_path / name).stat().st_gid)
        for name in ("own", "first", "thousandth")
    }
    assert owners == {
        "own": (UID, GID),
        "first": (uid, gid),
        "thousandth": (uid + 999, gid + 1000),
    }
    # The files belong to subordinate ids, so only root inside may remove them.
    assert prelude("-r", "--map-auto", "--", "rm", "first", "thousandth", cwd=tmp_path).stderr == ""


def test_root_inside_can_take_any_mapped_id(prelude: Program) -> None:
    script = "setpriv --reuid 1000 --regid 1000 --groups 5,6 id -u; id -u"
    done = prelude("-r", "--map-auto", "--", "sh", "-c", script)
    assert (done.stdout.split(), done.stderr) == (["1000", "0"], "")
    assert prelude("-r", "--map-auto", "-S", "12", "-G", "13", "--", "id", "-u").stdout == "12\n"


def test_overlapping_extents_are_refused(prelude: Program, granted: tuple[int, int]) -> None:
    done = prelude("-r", f"--map-users=0:{granted[0]}:9", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "")
    assert "overlap inside" in done.stderr


def test_extents_outside_the_granted_range_are_refused(
    prelude: Program, granted: tuple[int, int]
) -> None:
    for extent in (f"1:{granted[0] - 1}:2", "1:0:1", f"1:{UID}:2"):
        done = prelude("-r", f"--map-users={extent}", "--", "echo", "ran")
        assert (done.returncode, done.stdout) == (125, "")
        assert "[range-not-granted]" in done.stderr or "overlap outside" in done.stderr


@pytest.mark.parametrize(
    ("before", "cause"),
    [
        (["setpriv", "--no-new-privs"], "no-new-privs"),
        (["env", "PATH=/no/such/directory"], "helper-missing"),
        # usernsctl-exec runs as root of a user namespace, and so looks up the subordinate ranges of
        # root, who has none on the test host.
        (["PRELUDE", "-r", "--"], "no-subordinate-range"),
    ],
)
def test_obstacles_to_ranges_are_named(prelude: Program, before: list[str], cause: str) -> None:
    command = [str(prelude.path) if word == "PRELUDE" else word for word in before]
    echo = [prelude.path, "-r", "--map-auto", "--", "/bin/echo", "ran"]
    done = capture([*command, *echo])
    assert (done.returncode, done.stdout) == (125, "")
    assert f"[{cause}]" in done.stderr
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith("    ")] == [
        *("usernsctl-exec", "  why", "  remedy")
    ]


def test_a_helper_without_setuid_bit_is_named(prelude: Program, tmp_path: Path) -> None:
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).write_bytes(Path(f"/usr/bin/{name}").read_bytes())
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = prelude("-r", "--map-auto", "--", "echo", "ran", env=environment)
    assert (done.returncode, done.stdout) == (125, "")
    assert "[helper-not-setuid]" in done.stderr
    assert str(tmp_path) in done.stderr


def test_allow_single_id_maps_one_id_with_a_warning(prelude: Program) -> None:
    nested = [str(prelude.path), "-r", "--map-auto", "--allow-single-id", "--", *MAPS]
    done = prelude("-r", "--", *nested)
    assert done.returncode == 0
    assert done.stdout.split() == ["0", "0", "1", "0", "0", "1", "deny"]
    assert done.stderr.startswith(
        "usernsctl-exec: mapping only the caller's own id, as --allow-single-id"
    )
    assert len(done.stderr.splitlines()) == 1


def test_root_inside_maps_its_ids_without_helpers(prelude: Program) -> None:
    nested = [
        "env",
        "PATH=/bin",
        str(prelude.path),
        "--map-users=0:1:60000",
        "--map-users=70000:0:1",
    ]
    nested += ["--map-groups=all", "--", *MAPS]
    done = prelude("-r", "--map-auto", "--", *nested)
    assert done.stderr == ""
    ids = [str(extent.count) for extent in un.plan(un.IdMap.auto()).gid]
    assert done.stdout.split()[:6] == ["0", "1", "60000", "70000", "0", "1"]
    assert [ids[0], ids[1]] == done.stdout.split()[8:12:3]
    assert done.stdout.split()[-1] == "allow"


def test_helpers_work_with_closed_standard_streams(prelude: Program) -> None:
    script = f"{prelude.path} -r --map-auto -- sh -c 'exit 7' <&- >&- 2>&-; echo $?"
    assert subprocess.check_output(["sh", "-c", script], text=True) == "7\n"
