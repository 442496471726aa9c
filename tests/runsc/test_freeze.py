"""`usernsctl freeze` keeps in a file what `usernsctl run` would do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from conftest import Program


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
