"""Tests of usernsctl-exec --launch with invalid, modified and untrusted launch files."""

from __future__ import annotations

import os
import random
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from callers import as_root, unprivileged
from conftest import Program
from frozen import assert_ran, assert_refused, freeze
from sampling import tries

from usernsctl import _core

LAUNCH_MAX = 32 << 20
WORDS_MAX = 1 << 18


@pytest.fixture
def launch(tmp_path: Path) -> Path:
    return freeze(tmp_path / "launch")


@pytest.fixture
def perform(prelude: Program, launch: Path) -> Callable[..., None]:
    """Return a function that starts an invalid launch file and checks the error message."""

    def perform(file: Path | str, *says: str, cause: str | None = "launch-malformed") -> None:
        assert_refused(prelude("--launch", file), *says, cause=cause)

    return perform


Refused = Callable[..., None]


def test_truncated_launch_is_refused(perform: Refused, launch: Path) -> None:
    whole = launch.read_bytes()
    borders = [at + 1 for at, byte in enumerate(whole) if byte == 0]
    anywhere = random.sample(range(len(whole)), 50)
    for length in {0, *borders[:-1], *anywhere}:
        launch.write_bytes(whole[:length])
        perform(launch, f"{launch}: ", "truncated within" if length not in borders else "")


@tries(15, 60)
def test_launch_with_a_changed_byte_runs_or_is_refused(
    prelude: Program, launch: Path, count: int
) -> None:
    """Change a random byte of a launch file. The launch must work or fail, but must not crash."""
    whole = launch.read_bytes()
    for _ in range(count):
        at = random.randrange(len(whole))
        changed = bytes([random.randrange(256)])
        launch.write_bytes(whole[:at] + changed + whole[at + 1 :])
        command = [prelude.path, "--launch", launch]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        assert 0 <= done.returncode < 128, (at, changed, done)
        assert b"Traceback" not in done.stderr, (at, changed, done)


def test_oversized_launch_is_refused(perform: Refused, launch: Path, tmp_path: Path) -> None:
    whole = launch.read_bytes()
    long, many, sparse = tmp_path / "long", tmp_path / "many", tmp_path / "sparse"
    long.write_bytes(whole + b"x" * LAUNCH_MAX)
    perform(long, f"{long} has {LAUNCH_MAX + len(whole)} bytes; a launch may have {LAUNCH_MAX}")
    many.write_bytes(whole + b"\0" * WORDS_MAX)
    perform(many, f"{many}: ", f"strings exceed the limit of {WORDS_MAX}")
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    perform(sparse, f"{sparse} has {1 << 40} bytes")


def test_files_that_are_not_launches_are_refused(perform: Refused, tmp_path: Path) -> None:
    text, program, fifo, end = (tmp_path / name for name in ("text", "program", "fifo", "socket"))
    text.write_text("A=b\n")
    program.write_bytes(Path("/bin/true").read_bytes())
    os.mkfifo(fifo)
    # Create the socket by mknod(2), because bind(2) fails for a path of more than 107 bytes.
    os.mknod(end, stat.S_IFSOCK | 0o600)
    for file in (tmp_path, fifo, end, "/dev/zero", "/dev/null", "/dev/fd/0", "/"):
        perform(file, f"{file}: not a regular file")
    perform(text, f"{text}: truncated within a string")
    perform(program, f"{program}: does not begin with")
    perform("/proc/self/mem", "/proc/self/mem: truncated within a string")
    perform("", "--launch: no file was named", cause=None)
    perform(tmp_path / "none", f"{tmp_path}/none: No such file", cause=None)


def test_launch_of_another_version_is_refused(perform: Refused, launch: Path) -> None:
    whole = launch.read_bytes()
    ours = _core.version()
    launch.write_bytes(whole.replace(b"\0" + ours.encode() + b"\0", b"\x0099.1\0", 1))
    told = f"{launch}: frozen by usernsctl 99.1; this is usernsctl {ours}"
    perform(launch, told, f"  remedy: usernsctl freeze -o {launch}", cause="launch-outdated")
    launch.write_bytes(whole.replace(b"\x002\0", b"\x003\0", 1))
    perform(launch, f'{launch}: format "3"', "reads format 2", cause="launch-outdated")


@pytest.mark.also_root
@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646, 0o622, 0o602])
def test_launch_writable_by_others_is_refused(perform: Refused, launch: Path, mode: int) -> None:
    launch.chmod(mode)
    told = f"{launch} can be written to by others (mode {mode:o})"
    perform(launch, told, cause="launch-untrusted")


@pytest.mark.sampled(2)
@pytest.mark.also_root
@pytest.mark.parametrize("mode", [0o777, 0o733, 0o757])
def test_launch_in_a_directory_writable_by_others_is_refused(
    prelude: Program, perform: Refused, launch: Path, mode: int
) -> None:
    """Check that a launch file is rejected if others may rename files in a directory of its path.

    Those users could replace the file with another launch file, of the caller or of root, that
    gives the payload more access.
    """
    directory = launch.parent / "a" / "b"
    directory.mkdir(parents=True)
    moved = launch.rename(directory / "launch")
    for place in (directory, directory.parent):
        place.chmod(mode)
        told = f"{moved} lies in {place}, where others may replace it (uid "
        perform(moved, told, f"mode {mode:o}", cause="launch-untrusted")
        # Check that the sticky bit suffices: with it, other users can't rename the caller's files.
        place.chmod(mode | 0o1000)
        assert_ran(prelude("--launch", moved))


@as_root
def test_launch_of_another_user_is_refused(
    prelude: Program, perform: Refused, launch: Path
) -> None:
    os.chown(launch, 12345, 12345)
    told = f"{launch} belongs to uid 12345, who is neither root nor you"
    perform(launch, told, cause="launch-untrusted")
    os.chown(launch, 0, 0)
    link = launch.with_name("link")
    link.symlink_to(launch)
    assert_ran(prelude("--launch", link))
    os.chown(link, 12345, 12345, follow_symlinks=False)
    told = f"the symbolic link {link} belongs to uid 12345"
    perform(link, told, cause="foreign-link")
    os.chown(launch.parent, 12345, 12345)
    told = f"{launch} lies in {launch.parent}, where others may replace it (uid 12345"
    perform(launch, told, cause="launch-untrusted")
    os.chown(launch.parent, 0, 0)


@as_root
@pytest.mark.parametrize("gid", [12345, 12346])
def test_directory_of_the_user_private_group_is_trusted(prelude: Program, gid: int) -> None:
    """Check who may write to a launch file's directory: the owner and the user private group.

    This group's gid is equal to the owner's uid.
    """
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        launch = freeze(directory / "launch")
        for path in (directory, launch):
            os.chown(path, 12345, gid)
        directory.chmod(0o775)
        caller = ["setpriv", "--reuid=12345", f"--regid={gid}", "--clear-groups"]
        done = Program(Path("/usr/bin/env"))(*caller, str(prelude.path), "--launch", launch)
        if gid == 12345:
            assert_ran(done)
        else:
            told = f"lies in {directory}, where others may replace it (uid 12345, mode 775)"
            assert_refused(done, told, cause="launch-untrusted")


@pytest.mark.also_root
def test_symlinks_to_a_launch_are_followed(
    prelude: Program, perform: Refused, launch: Path
) -> None:
    link, loop = launch.with_name("link"), launch.with_name("loop")
    link.symlink_to("launch")
    assert_ran(prelude("--launch", link))
    assert_ran(prelude("--launch", "link", cwd=launch.parent))
    loop.symlink_to("loop")
    perform(loop, f"{loop}: Too many levels of symbolic links", cause=None)
    link.unlink()
    link.symlink_to("gone")
    perform(link, f"{link}: No such file", cause=None)


@unprivileged
def test_unreadable_launch_is_refused(perform: Refused, launch: Path) -> None:
    launch.chmod(0)
    perform(launch, f"{launch}: Permission denied\n  remedy: namei -l FILE", cause=None)


@as_root
def test_other_users_may_start_a_launch_of_root(prelude: Program) -> None:
    """Check that every user may start root's launch file, but root no other user's launch file."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        launch = freeze(directory / "launch", command=("id", "-u"))
        own = directory / "own"
        own.write_bytes(launch.read_bytes())
        own.chmod(0o644)
        os.chown(own, 12345, 12345)
        other = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
        for file in (launch, own):
            done = Program(Path("/usr/bin/env"))(*other, str(prelude.path), "--launch", file)
            assert_ran(done, "0\n")
        assert_refused(prelude("--launch", own), "belongs to uid 12345", cause="launch-untrusted")


@pytest.mark.also_root
def test_launch_writable_by_the_sandbox_is_refused(
    prelude: Program, perform: Refused, tmp_path: Path
) -> None:
    """Check that a launch file is rejected if the command could change it by a bind mount."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    for source in (tmp_path, tmp_path / "a", below):
        launch = freeze(below / "launch", "--bind", f"{source}:/x:rw")
        told = f"a sandbox could write to {launch}, since {source} is bind-mounted with :rw"
        perform(launch, told, cause="launch-untrusted")
        freeze(launch, "--bind", f"{source}:/x")
        assert_ran(prelude("--launch", launch))
    beside = below / "beside"
    beside.mkdir()
    freeze(launch, "--bind", f"{beside}:/x:rw")
    assert_ran(prelude("--launch", launch))
    freeze(launch, "--bind", f"{launch}:/x:rw")
    perform(launch, "a sandbox could write to ", cause="launch-untrusted")


@pytest.mark.also_root
def test_launch_with_a_bind_mount_of_the_state_is_refused(
    prelude: Program, perform: Refused, tmp_path: Path
) -> None:
    """Check that usernsctl-exec rejects a launch file that bind-mounts the state directory.

    `usernsctl freeze` can't reject the mount, because the user who performs the launch may have
    another state directory.
    """
    runtime = tmp_path / "runtime"
    (runtime / "usernsctl" / "inner").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    env = {"PATH": "/usr/bin:/bin", "XDG_RUNTIME_DIR": str(runtime)}
    for source, how in (
        (tmp_path, "contains"),
        (runtime, "contains"),
        (runtime / "usernsctl", "contains"),
        (runtime / "usernsctl" / "inner", "is in"),
    ):
        launch = freeze(tmp_path / "launch", "--bind", f"{source}:/x")
        done = prelude("--launch", launch, env=env)
        told = f"{source} can't be bind-mounted: this path {how} {runtime}/usernsctl"
        assert_refused(done, told, cause="bind-shows-state")
        assert_ran(prelude("--launch", launch, env=env | {"XDG_RUNTIME_DIR": "/nonexistent"}))
    launch = freeze(tmp_path / "launch", "--bind", f"{tmp_path}/beside:/x:rw")
    assert_ran(prelude("--launch", launch, env=env))
