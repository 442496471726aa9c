"""Tests of `usernsctl freeze`, which writes the launch file of a `usernsctl run` command."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from conftest import Program
from gvisor import BUILD


def test_freeze_writes_options_and_command(usernsctl: Program, tmp_path: Path) -> None:
    file = tmp_path / "launch"
    done = usernsctl(
        *("freeze", "--env", "TOKEN", "--env", "A=1", "--map-auto", "--bind", f"{tmp_path}:/x"),
        *("-o", file, "--", "id", "-u"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    words = file.read_bytes().split(b"\0")
    assert words[:2] == [b"usernsctl-launch", b"2"]
    assert words[-2:] == [b"end", b""]
    for pair in (b"env-need\0TOKEN", b"env-set\0A=1", b"idmap\0--map-auto", b"arg\0-u"):
        assert b"\0" + pair + b"\0" in file.read_bytes()


def test_freeze_accepts_a_missing_command(usernsctl: Program, tmp_path: Path) -> None:
    file = tmp_path / "launch"
    usernsctl.check_output("freeze", "-o", file)
    assert b"\0arg\0" not in file.read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--", "true"], "missing: -o/--output"),
        (["-o", "F", "--in", "name", "--", "true"], "--in can't be frozen: the namespace may"),
        (["-o", "F", "--root", "/r", "--", "true"], "--root can't be frozen: each start"),
        (
            ["-o", "F", "--debug-log", "/r", "--", "true"],
            "--debug-log can't be frozen: use",
        ),
        (["-o", "F", "--dry-run", "--", "true"], "--dry-run"),
        (["-o", "F", "-v", "/a:/b", "--", "true"], "Use --bind"),
        (["-o", "F", "--rootfs", "/a", "--expose-root", "--", "true"], "exclude each other"),
        (["-o", "F", "--bind", "/nonexistent", "--", "true"], "/nonexistent does not exist"),
        (["-o", "F", "--no-verify", "--user", "7", "--", "true"], "uid 7 is not mapped"),
        (["-o", "F", "--map-users", "1:x:2", "--", "true"], "1:x:2"),
        (["-o", "F", "--env", "A:b", "--", "true"], "write A=VALUE"),
        (["-o", "F", "--hostname", "\udcff", "--", "true"], "UTF-8"),
        (
            ["-o", "F/missing/x", "--", "true"],
            "can't write F/missing/x: No such file or directory\n  remedy: mkdir -p F/missing\n",
        ),
        (["-o", ".", "--", "true"], "remedy: name a file in the directory: -o ./NAME\n"),
        (["-o", "F", "--", ""], "the command is an empty string"),
        (["-o", "F", "--wd", "here"], "--wd here is neither an absolute path nor ."),
    ],
)
def test_invalid_options_write_no_file(
    usernsctl: Program, tmp_path: Path, options: list[str], says: str
) -> None:
    done = usernsctl("freeze", *options, cwd=tmp_path)
    assert done.returncode == 125
    assert says in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_freeze_replaces_only_regular_files(usernsctl: Program, tmp_path: Path) -> None:
    fifo, link, directory = (tmp_path / name for name in ("fifo", "link", "directory"))
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    directory.mkdir()
    for path, says in (
        ("/dev/null", "not a regular file"),
        ("/dev/stdout", "not a regular file"),
        (fifo, "not a regular file"),
        (link, "not a regular file"),
        (directory, "Is a directory"),
        (f"{tmp_path}/", "Is a directory"),
    ):
        done = usernsctl("freeze", "-o", path, "--", "true")
        assert (done.returncode, done.stdout) == (125, "")
        assert f"can't write {path}: {says}" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "fifo", "link"]
    assert link.is_symlink()


def run_launch(prelude: Program, file: Path, *args: str, **how: Any) -> Any:
    return prelude("--launch", file, *args, **how)


def test_frozen_launch_runs_its_command(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file, data = tmp_path / "launch", tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("shown")
    script = 'cat /x/file; echo "$A-$TOKEN-$HOME-$OTHER"; pwd; id -u; cat /proc/version; exit 5'
    usernsctl.check_output(
        *("freeze", "--bind", f"{data}:/x", "--env", "A=1", "--env", "TOKEN", "-o", file),
        *("--", "sh", "-c", script),
    )
    caller = {"PATH": "/usr/bin:/bin", "TOKEN": "two words", "OTHER": "secret", "HOME": "/nowhere"}
    done = run_launch(prelude, file, env=caller, cwd=Path("/usr/share"))
    assert (done.returncode, done.stderr) == (5, "")
    first, cwd, uid, version = done.stdout.splitlines()
    assert (first, cwd, uid) == ("shown1-two words-/root-", "/usr/share", "0")
    assert BUILD in version
    other = run_launch(prelude, file, "--", "echo", "another", "", "a b", env=caller)
    assert (other.returncode, other.stdout) == (0, "another  a b\n")
    none = run_launch(prelude, file, env={"PATH": "/usr/bin"})
    assert none.returncode == 125
    assert "TOKEN" in none.stderr


def test_frozen_launch_prints_the_same_as_run(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    command = ["sh", "-c", "ls / /home /root /tmp /run /etc /var; cat /etc/shadow | wc -c; umask"]
    assert usernsctl("freeze", "-o", file, "--", *command).returncode == 0
    frozen, run = run_launch(prelude, file), usernsctl("run", "--", *command)
    assert (frozen.returncode, frozen.stderr) == (run.returncode, run.stderr)
    assert frozen.stdout == run.stdout


def test_frozen_launch_with_a_removed_bind_source_fails(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file, data = tmp_path / "launch", tmp_path / "data"
    data.mkdir()
    options = ["--bind", f"{data}:/x", "--env", "TOKEN=secret", "-o", str(file)]
    assert usernsctl("freeze", *options, "--", "true").returncode == 0
    assert run_launch(prelude, file).returncode == 0
    data.rmdir()
    gone = run_launch(prelude, file)
    assert gone.returncode == 125
    assert "launch-outdated" in gone.stderr
    assert f"usernsctl freeze --bind {data}:/x --env TOKEN=... -o {file}" in gone.stderr
    assert "secret" not in gone.stderr


def test_frozen_launch_starts_in_the_cwd_of_its_caller(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    assert usernsctl("freeze", "--wd", ".", "-o", file, "--", "pwd").returncode == 0
    done = run_launch(prelude, file, cwd=Path("/usr/share"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "/usr/share\n", "")
    none = run_launch(prelude, file, cwd=tmp_path)
    assert (none.returncode, none.stdout) == (125, "")
    assert f"{tmp_path}, the working directory of the launch," in none.stderr
    ready = run_launch(prelude, file, "--check", cwd=Path("/usr"))
    assert (ready.returncode, ready.stderr) == (0, "")


@pytest.mark.userns_requires("subid")
def test_frozen_launch_maps_several_ids(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    command = [
        "sh",
        "-c",
        "cat /proc/self/uid_map; touch /tmp/f && chown 5 /tmp/f && stat -c %u /tmp/f",
    ]
    assert usernsctl("freeze", "--map-auto", "-o", file, "--", *command).returncode == 0
    frozen, run = run_launch(prelude, file), usernsctl("run", "--map-auto", "--", *command)
    assert (frozen.returncode, frozen.stdout, frozen.stderr) == (0, run.stdout, "")


@pytest.mark.userns_requires("subid")
def test_frozen_launch_works_with_sigchld_ignored(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    options = ["--map-auto", "-o", str(file)]
    assert usernsctl("freeze", *options, "--", "sh", "-c", "exit 5").returncode == 0
    ignoring = Program(Path("/usr/bin/env"))
    done = ignoring("--ignore-signal=CHLD", prelude.path, "--launch", file)
    assert (done.returncode, done.stderr) == (5, "")


# As root, the launch would also warn of volumes of the Docker daemons that tests/docker runs at the
# same time.
@pytest.mark.unprivileged
def test_frozen_launch_runs_a_bundle(usernsctl: Program, prelude: Program, tmp_path: Path) -> None:
    bundle, file = tmp_path / "b", tmp_path / "launch"
    made = usernsctl("bundle", "init", bundle, "--rootfs", "/", "--", "sh", "-c", "pwd; exit 6")
    assert made.returncode == 0, made.stderr
    usernsctl.check_output("freeze", "--trust-bundle", "--bundle", bundle, "-o", file)
    done = run_launch(prelude, file)
    assert (done.returncode, done.stdout, done.stderr) == (6, "/\n", "")


def test_frozen_launch_uses_the_host_name_of_the_start(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    """Check that the sandbox has the name of the host on which the launch is performed.

    The option --hostname of `usernsctl freeze` takes precedence.
    """
    file, chosen = tmp_path / "launch", tmp_path / "chosen"
    show = ("--", "cat", "/proc/sys/kernel/hostname")
    assert usernsctl("freeze", "-o", file).returncode == 0
    assert usernsctl("freeze", "--hostname", "chosen", "-o", chosen, *show).returncode == 0
    there = run_launch(prelude, file, *show)
    assert (there.returncode, there.stdout) == (0, f"{socket.gethostname()}\n"), there.stderr
    renamed = ("-r", "-u", "--", "sh", "-c", 'hostname other && exec "$@"', "sh", prelude.path)
    other = prelude(*renamed, "--launch", file, *show)
    assert (other.returncode, other.stdout) == (0, "other\n"), other.stderr
    assert prelude(*renamed, "--launch", chosen).stdout == "chosen\n"


def test_frozen_launch_reports_missing_commands_as_run_does(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    file = tmp_path / "launch"
    assert usernsctl("freeze", "-o", file).returncode == 0
    for word, status in (("no-such", 127), ("/no/such", 127), ("/etc/passwd", 126), ("", 125)):
        done, ran = run_launch(prelude, file, "--", word), usernsctl("run", "--", word)
        assert (done.returncode, done.stdout) == (ran.returncode, "") == (status, "")
        line = ran.stderr.splitlines()[0].removeprefix("usernsctl")
        assert not word or done.stderr.splitlines()[0] == f"usernsctl-exec{line}"
