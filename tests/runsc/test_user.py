"""Tests of --user, which sets the command's ids, with one mapped id and with several."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import Program
from frozen import assert_refused, freeze
from processes import capture

IDS = "id -u; id -g; id -G; cat /proc/self/uid_map; grep CapEff /proc/self/status"


@pytest.mark.each_user
@pytest.mark.parametrize("user", ["1000:1000", "0:5", "7", "4294967294"])
@pytest.mark.sampled(2)
def test_user_option_maps_one_id_to_the_caller(
    usernsctl: Program, prelude: Program, tmp_path: Path, user: str
) -> None:
    """Check that --user maps one uid and gid to the caller's: some programs refuse to be root."""
    uid, _, gid = user.partition(":")
    gid = gid or uid
    told = [uid, gid, gid, uid, "0", "1", "CapEff:", "0" * 16]
    run = usernsctl("run", "--user", user, "--", "sh", "-c", IDS)
    assert (run.stdout.split(), run.stderr, run.returncode) == (told, "", 0)
    launch = freeze(tmp_path / "launch", "--user", user, command=("sh", "-c", IDS))
    done = prelude("--launch", launch)
    assert (done.stdout.split(), done.stderr, done.returncode) == (told, "", 0)


@pytest.mark.each_user
def test_user_option_keeps_the_owner_of_files(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    os.chmod(tmp_path / "mine", 0o600)
    script = "stat -c %u:%g mine; echo changed >mine; echo new >new; cat mine"
    bind = f"{tmp_path}:/data:rw"
    done = usernsctl(
        *("run", "--bind", bind, "--wd", "/data", "--user", "1000:1001"),
        *("--", "sh", "-c", script),
    )
    assert (done.stdout, done.stderr) == ("1000:1001\nchanged\n", "")
    made = (tmp_path / "new").stat()
    assert (made.st_uid, made.st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.each_user
def test_run_as_applies_at_the_launch(prelude: Program, tmp_path: Path) -> None:
    launch = freeze(tmp_path / "launch", command=("sh", "-c", "id -u; id -g"))
    done = prelude("--launch", launch, "--run-as", "5:6")
    assert (done.stdout, done.stderr) == ("5\n6\n", "")
    assert prelude("--launch", launch).stdout == "0\n0\n"
    assert prelude("--launch", launch, "--run-as", "5", "--check").returncode == 0


@pytest.mark.each_user
@pytest.mark.userns_requires("subid")
def test_run_as_outside_the_map_is_refused(prelude: Program, tmp_path: Path) -> None:
    script = ("sh", "-c", "id -u; tail -n 1 /proc/self/uid_map")
    launch = freeze(tmp_path / "launch", "--map-auto", command=script)
    done = prelude("--launch", launch, "--run-as", "9")
    assert done.stdout.split() == ["9", "0", "0", "4294967295"], done.stderr
    refused = prelude("--launch", launch, "--run-as", "4000000000")
    assert_refused(refused, "uid 4000000000", cause="inside-id-unmapped")


@pytest.mark.each_user
def test_user_option_with_no_verify_is_refused(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    done = usernsctl("run", "--no-verify", "--user", "5", "--", "true")
    assert (done.returncode, "uid 5 is not mapped" in done.stderr) == (125, True)
    launch = freeze(tmp_path / "launch", "--no-verify")
    refused = prelude("--launch", launch, "--run-as", "5")
    assert_refused(refused, "uid 5", cause="inside-id-unmapped")


@pytest.mark.parametrize("user", ["-1", "4294967295", "1:-1", "", "1 ", "99999999999"])
def test_invalid_user_ids_are_refused(usernsctl: Program, user: str) -> None:
    done = usernsctl("run", f"--user={user}", "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "is not UID[:GID]" in done.stderr


@pytest.mark.each_user
def test_command_inherits_nofile_of_the_caller(usernsctl: Program) -> None:
    """Check that the command gets the caller's RLIMIT_NOFILE, not the limit of runsc itself."""
    script = ["sh", "-c", "ulimit -Sn; ulimit -Hn"]
    limited = ["prlimit", "--nofile=600:700", usernsctl.path, "run"]
    done = capture([*limited, "--", *script])
    assert (done.stdout, done.stderr) == ("600\n700\n", "")
    given = capture([*limited, "--rlimit", "nofile=50:60", "--", *script])
    assert (given.stdout, given.stderr) == ("50\n60\n", "")
