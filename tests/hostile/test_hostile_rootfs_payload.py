"""Attacks by a payload on the host files that its sandbox mounts."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from tally import Tally

import usernsctl as un
from usernsctl.gvisor.launch.request import Bind

pytestmark = [pytest.mark.also_root, pytest.mark.userns_requires("runsc")]

# Script that tries every change to files and directories that sh can make.
ATTACK = """
for file in "$@"; do
    true >"$file"; echo x >"$file"; echo x >>"$file"; rm -f "$file"; mv "$file" "$file".moved
    chmod 666 "$file"; touch "$file" "${file%/*}/new"; mkdir "${file%/*}/directory"
    ln "$file" "$file".linked
done 2>/dev/null
exit 0
"""


@pytest.fixture
def shown_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "shown"
    (directory / "below").mkdir(parents=True)
    for path in (directory / "file", directory / "below" / "file"):
        path.write_text("content\n")
        path.chmod(0o666)
    return directory


def state_of(directory: Path) -> dict[str, tuple[int, bytes]]:
    paths = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mode, path.read_bytes()) for path in paths}


def test_a_payload_can_not_change_read_only_binds(
    tally: Tally, usernsctl: Program, shown_dir: Path
) -> None:
    before = state_of(shown_dir)
    binds = ["--bind", f"{shown_dir}:/ro", "--bind", f"{shown_dir}/file:/one"]
    for _ in range(tally.rounds(2, 50)):
        done = usernsctl(
            "run", *binds, "--", "sh", "-c", ATTACK, "sh", "/ro/file", "/ro/below/file", "/one"
        )
        assert done.returncode == 0, done.stderr
        tally.tried()
        if state_of(shown_dir) != before:
            tally.succeeded("it changed a file of the machine")


def test_a_payload_can_not_change_binds_of_a_host(tally: Tally, shown_dir: Path) -> None:
    before = state_of(shown_dir)
    with un.SandboxHost(binds=[Bind(str(shown_dir), "/ro")]) as host:
        for _ in range(tally.rounds(2, 50)):
            with host.start(["sh", "-c", ATTACK, "sh", "/ro/file", "/ro/below/file"]) as box:
                assert box.wait(timeout=60) == 0
            tally.tried()
            if state_of(shown_dir) != before:
                tally.succeeded("it changed a file of the machine")


def test_a_payload_can_not_change_its_root_filesystem(
    tally: Tally, usernsctl: Program, tmp_path: Path, shown_dir: Path
) -> None:
    """Check that a payload can't change files of --rootfs, a bundle or --expose-root."""
    before = state_of(shown_dir)
    (tmp_path / "bundle").mkdir()
    config = {
        "process": {"args": ["sh", "-c", ATTACK, "sh", "/file"], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": "../shown", "readonly": False},
    }
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(config))
    programs = [arg for name in ("bin", "lib", "lib64", "usr") for arg in bind_of(name)]
    attack = ["sh", "-c", ATTACK, "sh"]
    for options in (
        ["--rootfs", str(shown_dir), *programs, "--", *attack, "/file", "/below/file"],
        ["--bundle", str(tmp_path / "bundle"), "--trust-bundle", *programs],
        ["--expose-root", "--", *attack, f"{shown_dir}/file", f"{shown_dir}/below/file"],
    ):
        done = usernsctl("run", *options)
        assert done.returncode == 0, done.stderr
        tally.tried()
        if state_of(shown_dir) != before:
            tally.succeeded(f"it changed a file of the machine by {options[0]}")


def bind_of(name: str) -> list[str]:
    return ["--bind", f"/{name}"] if os.path.isdir(f"/{name}") else []


def mounts_of(pid: int) -> dict[str, list[str]]:
    """Return the options of a process's mounts below a directory `usernsctl`, by relative path."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    fields = [line.split(" ") for line in lines]
    ours = [(one[4].partition("/usernsctl/")[2], one[5].split(",")) for one in fields]
    return {place: options for place, options in ours if place}


@pytest.fixture
def sandbox_pid(usernsctl: Program, tmp_path: Path) -> Iterator[int]:
    """Start a run with one writable and two read-only bind mounts; yield the pid of usernsctl."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    binds = [f"{tmp_path}/dir:/w:rw", f"{tmp_path}/dir:/r", f"{tmp_path}/file:/f"]
    options = [word for bind in binds for word in ("--bind", bind)]
    with subprocess.Popen(
        [usernsctl.path, "run", *options, "--", "sh", "-c", "echo ready; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.communicate()


def test_read_only_mounts_are_read_only_on_the_host(tally: Tally, sandbox_pid: int) -> None:
    """Check that mounts are read-only on the host, too: a sentry or gofer may be compromised."""
    mounts = mounts_of(sandbox_pid)
    shown = sorted(int(name[6:]) for name in mounts if name.startswith("shown/"))
    writable, *others = (f"shown/{number}" for number in shown)
    assert "rw" in mounts[writable]
    protected = [name for name in mounts if name.split("/")[0] == "root"]
    assert len(protected) > 3
    for name in (*others, *protected):
        tally.tried()
        if "ro" not in mounts[name]:
            tally.succeeded(f"{name} can be written to")
    for name in (writable, *others, *protected):
        if not {"nosuid", "nodev"} <= set(mounts[name]):
            tally.succeeded(f"{name} has devices or set-user-id programs")


@as_root
def test_a_file_of_etc_that_becomes_private_is_hidden(tally: Tally, usernsctl: Program) -> None:
    """Replace files of /etc by private ones during a run, as chpasswd does; they must be hidden."""
    old, new = (Path(f"/etc/usernsctl-hostile-{os.getpid()}-{name}") for name in ("old", "new"))
    old.write_text("public\n")
    script = f"echo ready; read go; cat {old} {new}; ls -l {old} >/dev/null"
    try:
        for _ in range(tally.rounds(2, 20)):
            old.unlink()
            old.write_text("public\n")
            new.unlink(missing_ok=True)
            with subprocess.Popen(
                [usernsctl.path, "run", "--", "sh", "-c", script],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ) as process:
                assert process.stdout.readline() == "ready\n"
                for path in (old, new):
                    made = Path(f"{path}.made")
                    made.touch(mode=0o600)
                    made.write_text("secret\n")
                    made.rename(path)
                said, _ = process.communicate("go\n", timeout=60)
            tally.tried()
            if "secret" in said:
                tally.succeeded("it read a file that only root may read")
            else:
                assert said == "public\n"
    finally:
        for path in (old, new):
            path.unlink(missing_ok=True)


@as_root
@pytest.mark.parametrize("spelling", ["{}", "/{}", "{}/.", "{}.link"])
def test_a_home_among_the_programs_is_looked_into(
    tally: Tally, usernsctl: Program, spelling: str
) -> None:
    home = Path(f"/usr/local/usernsctl-hostile-{os.getpid()}")
    link = Path(f"{home}.link")
    home.mkdir()
    try:
        (home / "secret").touch()
        link.symlink_to(home)
        env = {"HOME": spelling.format(home), "PATH": os.environ["PATH"]}
        done = usernsctl("run", "--", "ls", str(home), f"{link}/", env=env)
        assert done.returncode == 0, done.stderr
        tally.tried()
        if "secret" in done.stdout:
            tally.succeeded("it saw what is in the caller's home")
    finally:
        link.unlink()
        (home / "secret").unlink()
        home.rmdir()


@as_root
def test_a_home_that_has_the_programs_in_it_is_refused(usernsctl: Program, tally: Tally) -> None:
    for home in ("/usr", "/usr/local", "/opt", "/bin", "/etc"):
        done = usernsctl("run", "--", "true", env={"HOME": home, "PATH": os.environ["PATH"]})
        tally.tried()
        if done.returncode != 125 or "set HOME to a directory" not in done.stderr:
            tally.succeeded(f"with HOME={home}: {done.stderr}")


@pytest.mark.parametrize("order", ["outer first", "inner first", "tmpfs"])
def test_no_mount_point_is_created_on_the_host(
    tally: Tally, usernsctl: Program, tmp_path: Path, order: str
) -> None:
    """Check that a run fails if gVisor would have to create a mount point on the host.

    gVisor would create the mount point in the writable directory, with mode 0777.
    """
    outer, inner, bundle = (tmp_path / name for name in ("outer", "inner", "bundle"))
    for directory in (outer, inner, bundle):
        directory.mkdir()
    binds = ["--bind", f"{outer}:/data:rw", "--bind", f"{inner}:/data/here"]
    if order == "inner first":
        binds = [*binds[2:], *binds[:2]]
    if order == "tmpfs":
        mounts = [
            {"destination": "/data", "type": "bind", "source": str(outer), "options": ["rw"]},
            {"destination": "/data/here", "type": "tmpfs", "source": "tmpfs"},
        ]
        config = {"process": {"args": ["true"], "cwd": "/"}, "root": {"path": "/"}}
        (bundle / "config.json").write_text(json.dumps({**config, "mounts": mounts}))
        done = usernsctl("run", "--bundle", str(bundle), "--trust-bundle")
    else:
        done = usernsctl("run", *binds, "--", "true")
    tally.tried()
    if list(outer.iterdir()):
        tally.succeeded("a directory was made on the machine")
    assert done.returncode == 125
    assert f"create {outer}/here first" in done.stderr
