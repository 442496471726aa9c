"""`usernsctl freeze` keeps in a file what `usernsctl run` would do."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from gvisor import BUILD


def test_a_file_is_made(usernsctl: Program, tmp_path: Path) -> None:
    file = tmp_path / "launch"
    done = usernsctl(
        *("freeze", "--env", "TOKEN", "--env", "A=1", "--map-auto", "--bind", f"{tmp_path}:/x"),
        *("-o", file, "--", "id", "-u"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    words = file.read_bytes().split(b"\0")
    assert words[:2] == [b"usernsctl-launch", b"1"]
    assert words[-2:] == [b"end", b""]
    for pair in (b"env-need\0TOKEN", b"env-set\0A=1", b"idmap\0--map-auto", b"arg\0-u"):
        assert b"\0" + pair + b"\0" in file.read_bytes()


def test_a_file_without_a_command(usernsctl: Program, tmp_path: Path) -> None:
    file = tmp_path / "launch"
    done = usernsctl("freeze", "-o", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert b"\0arg\0" not in file.read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--", "true"], "Missing option '-o'"),
        (["-o", "F", "--in", "name", "--", "true"], "--in can't be frozen: a kept namespace may"),
        (["-o", "F", "--root", "/r", "--", "true"], "--root can't be frozen: each start"),
        (["-o", "F", "--debug-log", "/r", "--", "true"], "--debug-log can't be frozen: use it"),
        (["-o", "F", "--dry-run", "--", "true"], "--dry-run"),
        (["-o", "F", "-v", "/a:/b", "--", "true"], "Use --bind"),
        (["-o", "F", "--rootfs", "/a", "--expose-root", "--", "true"], "exclude each other"),
        (["-o", "F", "--bind", "/nonexistent", "--", "true"], "there is no /nonexistent"),
        (["-o", "F", "--user", "7", "--", "true"], "uid 7 is not mapped"),
        (["-o", "F", "--map-users", "1:x:2", "--", "true"], "1:x:2"),
        (["-o", "F", "--env", "A:b", "--", "true"], "it should be A=VALUE"),
        (["-o", "F", "--hostname", "\udcff", "--", "true"], "UTF-8"),
        (["-o", "F/missing/x", "--", "true"], "can't write F/missing/x"),
        (["-o", "F", "--", ""], "the command is an empty string"),
    ],
)
def test_bad_options(usernsctl: Program, tmp_path: Path, options: list[str], says: str) -> None:
    done = usernsctl("freeze", *options, cwd=tmp_path)
    assert done.returncode == 125
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def launched(prelude: Program, file: Path, *words: str, **how: Any) -> Any:
    return prelude("--launch", file, *words, **how)


def test_a_frozen_launch_is_performed(usernsctl: Program, prelude: Program, tmp_path: Path) -> None:
    file, data = tmp_path / "launch", tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("shown")
    script = 'cat /x/file; echo "$A-$TOKEN-$HOME-$OTHER"; pwd; id -u; cat /proc/version; exit 5'
    made = usernsctl(
        *("freeze", "--bind", f"{data}:/x", "--env", "A=1", "--env", "TOKEN", "-o", file),
        *("--", "sh", "-c", script),
    )
    assert (made.returncode, made.stderr) == (0, "")
    caller = {"PATH": "/usr/bin:/bin", "TOKEN": "two words", "OTHER": "secret", "HOME": "/nowhere"}
    done = launched(prelude, file, env=caller, cwd=Path("/usr/share"))
    assert (done.returncode, done.stderr) == (5, "")
    first, cwd, uid, version = done.stdout.splitlines()
    assert (first, cwd, uid) == ("shown1-two words-/root-", "/usr/share", "0")
    assert BUILD in version
    other = launched(prelude, file, "--", "echo", "another", "", "a b", env=caller)
    assert (other.returncode, other.stdout) == (0, "another  a b\n")
    none = launched(prelude, file, env={"PATH": "/usr/bin"})
    assert none.returncode == 125
    assert "TOKEN" in none.stderr


def test_a_frozen_launch_shows_what_a_run_does(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    command = ["sh", "-c", "ls / /home /root /tmp /run /etc /var; cat /etc/shadow | wc -c; umask"]
    assert usernsctl("freeze", "-o", file, "--", *command).returncode == 0
    frozen, run = launched(prelude, file), usernsctl("run", "--", *command)
    assert (frozen.returncode, frozen.stderr) == (run.returncode, run.stderr)
    assert frozen.stdout == run.stdout


def test_a_launch_that_does_not_hold_any_more(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file, data = tmp_path / "launch", tmp_path / "data"
    data.mkdir()
    options = ["--bind", f"{data}:/x", "--env", "TOKEN=secret", "-o", str(file)]
    assert usernsctl("freeze", *options, "--", "true").returncode == 0
    assert launched(prelude, file).returncode == 0
    data.rmdir()
    gone = launched(prelude, file)
    assert gone.returncode == 125
    assert "launch-outdated" in gone.stderr
    assert f"usernsctl freeze --bind {data}:/x --env TOKEN=... -o {file}" in gone.stderr
    assert "secret" not in gone.stderr


@pytest.mark.userns_requires("subid")
def test_a_frozen_launch_with_several_ids(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    command = [
        "sh",
        "-c",
        "cat /proc/self/uid_map; touch /tmp/f && chown 5 /tmp/f && stat -c %u /tmp/f",
    ]
    assert usernsctl("freeze", "--map-auto", "-o", file, "--", *command).returncode == 0
    frozen, run = launched(prelude, file), usernsctl("run", "--map-auto", "--", *command)
    assert (frozen.returncode, frozen.stdout, frozen.stderr) == (0, run.stdout, "")


def test_a_frozen_bundle(usernsctl: Program, prelude: Program, tmp_path: Path) -> None:
    bundle, file = tmp_path / "b", tmp_path / "launch"
    made = usernsctl("bundle", "init", bundle, "--rootfs", "/", "--", "sh", "-c", "pwd; exit 6")
    assert made.returncode == 0, made.stderr
    frozen = usernsctl("freeze", "--trust-bundle", "--bundle", bundle, "-o", file)
    assert (frozen.returncode, frozen.stderr) == (0, "")
    done = launched(prelude, file)
    assert (done.returncode, done.stdout, done.stderr) == (6, "/\n", "")
