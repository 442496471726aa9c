"""Tests of id maps, and of the ids inside the namespace, with usernsctl-exec."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from callers import as_root, unprivileged
from conftest import Program
from inside import PATIENCE
from processes import capture, check_output

pytestmark = pytest.mark.each_user

MAPS = ["cat", "/proc/self/uid_map", "/proc/self/gid_map", "/proc/self/setgroups"]
UID, GID = os.geteuid(), os.getegid()


def words(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    ("options", "uid_map", "gid_map", "setgroups"),
    [
        ([], f"0 {UID} 1", f"0 {GID} 1", "deny"),
        (["-r"], f"0 {UID} 1", f"0 {GID} 1", "deny"),
        (["-r", "--setgroups=deny"], f"0 {UID} 1", f"0 {GID} 1", "deny"),
        (["-c"], f"{UID} {UID} 1", f"{GID} {GID} 1", "deny"),
        (["-U"], "", "", "allow"),
        (["-U", "--setgroups=deny"], "", "", "deny"),
        (["--map-user=7"], f"7 {UID} 1", "", "allow"),
        (["--map-group=8"], "", f"8 {GID} 1", "deny"),
        (["--map-user=7", "--map-group=8"], f"7 {UID} 1", f"8 {GID} 1", "deny"),
        ([f"--map-users=5:{UID}:1"], f"5 {UID} 1", "", "allow"),
    ],
)
def test_maps_are_as_requested(
    prelude: Program, options: list[str], uid_map: str, gid_map: str, setgroups: str
) -> None:
    done = prelude(*options, "--", *MAPS)
    assert done.stderr == ""
    assert words(done.stdout) == words(f"{uid_map} {gid_map} {setgroups}")


@pytest.mark.parametrize(
    "options",
    [
        ["-U"],
        ["-r"],
        ["-c"],
        ["--map-user=7"],
        ["--map-group=8"],
        ["--map-user=7", "--map-group=8"],
        ["-r", "--map-user=7"],
        ["-U", "--setgroups=deny"],
        ["-rmu"],
        ["-rf"],
        ["-r", "--kill-child"],
        ["-r", "--wd=/usr"],
        pytest.param(["--map-users=0:100000:9", "--map-groups=0:200000:9"], marks=as_root),
        pytest.param(
            ["-r", "--map-users=1:100000:9", "--map-groups=1:200000:9", "--setgroups=allow"],
            marks=as_root,
        ),
    ],
)
def test_options_match_unshare(prelude: Program, options: list[str]) -> None:
    ours = prelude(*options, "--", *MAPS)
    theirs = capture(["unshare", *options, "--", *MAPS])
    assert theirs.returncode == 0, theirs.stderr
    assert ours.returncode == 0, ours.stderr
    assert words(ours.stdout) == words(theirs.stdout)


@unprivileged
@pytest.mark.userns_requires("subid")
@pytest.mark.parametrize(
    "options", [["-r", "--map-auto"], ["-c", "--map-auto"], ["--map-auto"], ["--map-groups=auto"]]
)
@pytest.mark.parametrize("kind", ["uid", "gid"])
def test_subordinate_ranges_include_those_that_unshare_maps(
    prelude: Program, options: list[str], kind: str
) -> None:
    """Check that usernsctl maps all subordinate ranges; unshare maps only the first.

    If the caller's own id is mapped as well, unshare maps one subordinate id less. The test does
    not run as root: for uid 0, unshare takes the range of any user whose name is not a number.
    """
    show = ["cat", f"/proc/self/{kind}_map"]
    ours = extents(check_output([prelude.path, *options, "--", *show]))
    theirs = extents(check_output(["unshare", *options, "--", *show]))
    assert bool(ours) == bool(theirs)
    assert all(count <= ours.get(start, 0) for start, count in theirs.items())


def extents(text: str) -> dict[tuple[int, int], int]:
    """Parse uid_map or gid_map; return a dict that maps (ID-inside-ns, ID-outside-ns) to length."""
    lines = (map(int, line.split()) for line in text.splitlines())
    return {(inside, outside): count for inside, outside, count in lines}


@unprivileged
@pytest.mark.userns_requires("subid")
def test_the_command_keeps_the_pid_with_helpers(prelude: Program) -> None:
    show = ["sh", "-c", "echo $$; id -u; id -g"]
    command: list[str | Path] = [prelude.path, "-r", "--map-auto", "--", *show]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        told, _ = process.communicate(timeout=PATIENCE)
    assert told.split() == [str(process.pid), "0", "0"]


@as_root
def test_root_maps_any_extents_and_keeps_setgroups(prelude: Program) -> None:
    done = prelude(
        "--map-users=0:100000:10", "--map-users=20:0:1", "--map-groups=0:200000:10", "--", *MAPS
    )
    assert done.stderr == ""
    assert words(done.stdout) == words("0 100000 10 20 0 1 0 200000 10 allow")


@as_root
@pytest.mark.parametrize(
    ("options", "identity"),
    [
        # A caller whose ids are mapped keeps its ids. Any other caller becomes root and loses its
        # supplementary groups.
        (["--map-users=5:0:1", "--map-groups=6:0:1"], "5 6 6"),
        (["--map-users=0:100000:10", "--map-groups=0:200000:10"], "0 0 0"),
        (["--map-users=0:100000:10", "--map-groups=0:200000:10", "-S", "3", "-G", "4"], "3 4 4"),
        (["-r", "--map-users=1:1:9", "--map-groups=1:1:9", "-S", "3", "--setgid=4"], "3 4 4"),
    ],
)
def test_root_gets_the_requested_ids(prelude: Program, options: list[str], identity: str) -> None:
    done = prelude(*options, "--", "sh", "-c", "id -u; id -g; id -G")
    assert done.stderr == ""
    assert words(done.stdout) == words(identity)


@as_root
def test_the_most_extents_that_fit_into_a_page_are_mapped(prelude: Program) -> None:
    extents = [f"--map-users={n}:{100000 + 2 * n}:1" for n in range(1, 251)]
    done = prelude(*extents, "--", "cat", "/proc/self/uid_map")
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 250


@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        (["-r"], 0, 0),
        (["-c"], UID, GID),
        (["--map-user=7", "--map-group=8"], 7, 8),
        (["-r", "-S", "0", "-G", "0"], 0, 0),
    ],
)
def test_the_command_has_the_mapped_ids(
    prelude: Program, options: list[str], uid: int, gid: int
) -> None:
    done = prelude(*options, "--", "sh", "-c", "id -u; id -g")
    assert done.stderr == ""
    assert words(done.stdout) == [str(uid), str(gid)]


@pytest.mark.parametrize(("option", "step"), [("-S", "setresuid"), ("-G", "setresgid")])
def test_unmapped_ids_fail_with_einval(prelude: Program, option: str, step: str) -> None:
    done = prelude("-r", option, "1234", "--", "echo", "ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert f"{step}: " in done.stderr
    assert "Invalid argument" in done.stderr


@unprivileged
def test_setgroups_can_not_stay_allowed_without_privilege(prelude: Program) -> None:
    done = prelude("-r", "--setgroups=allow", "--", "echo", "ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert "[setgroups-order]" in done.stderr


@unprivileged
def test_ids_outside_subordinate_ranges_are_refused(prelude: Program) -> None:
    done = prelude("--map-users=0:4000000000:2", "--", "echo", "ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert done.stderr.startswith("usernsctl-exec: plan: ")
    assert "  remedy:" in done.stderr


def test_ids_unmapped_in_the_parent_are_refused(prelude: Program) -> None:
    done = prelude("-r", "--", str(prelude.path), "--map-users=0:77:1", "--", "echo", "ran")
    assert done.returncode == 125
    assert done.stdout == ""
    assert "[outside-parent-map]" in done.stderr
    assert "77" in done.stderr


def test_namespaces_can_be_nested(prelude: Program) -> None:
    done = prelude("-r", "--", str(prelude.path), "--map-user=9", "--map-group=9", "--", *MAPS)
    assert done.stderr == ""
    assert words(done.stdout) == words("9 0 1 9 0 1 deny")


def test_keep_caps_keeps_capabilities(prelude: Program) -> None:
    def capabilities(*options: str) -> dict[str, int]:
        done = prelude(
            "--map-user=7", "--map-group=8", *options, "--", "grep", "^Cap", "/proc/self/status"
        )
        assert done.stderr == ""
        lines = (line.split(":") for line in done.stdout.splitlines())
        return {name: int(value, 16) for name, value in lines}

    assert capabilities()["CapEff"] == 0
    kept = capabilities("--keep-caps")
    assert kept["CapEff"] == kept["CapPrm"] == kept["CapAmb"] == kept["CapBnd"] != 0


def test_a_private_working_directory_works(prelude: Program, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir(mode=0o700)
    assert prelude("-r", "--", "pwd", cwd=secret).stdout.strip() == str(secret)
