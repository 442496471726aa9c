"""Tests of a sandbox's root filesystem: files, bind mounts, and protection from writes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
from callers import as_root
from conftest import Program
from processes import capture

# C program that prints its arguments and environment, tries to write to /, and exits with status 3.
PROBE = """\
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    FILE *made = fopen("/made", "w");
    if (made == NULL || fclose(made) != 0)
        return 4;
    for (int i = 1; i < argc; i++)
        printf("argument %s\\n", argv[i]);
    extern char **environ;
    for (char **entry = environ; *entry != NULL; entry++)
        puts(*entry);
    printf("uid %d, shown %d\\n", (int)getuid(), access("/shown/file", R_OK));
    return 3;
}
"""


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile PROBE into a static program, which needs no other files; return its path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    directory = tmp_path_factory.mktemp("probe")
    (directory / "probe.c").write_text(PROBE)
    subprocess.run(
        [compiler, "-D_GNU_SOURCE", "-static", "-o", "probe", "probe.c"], cwd=directory, check=True
    )
    return directory / "probe"


@pytest.fixture
def rootfs(tmp_path: Path, probe: Path) -> Path:
    """Create a root filesystem that contains only /bin/probe; return its path."""
    directory = tmp_path / "rootfs"
    (directory / "bin").mkdir(parents=True)
    shutil.copy(probe, directory / "bin")
    return directory


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


def write_bundle(directory: Path, linux: dict[str, Any] | None, **more: Any) -> Path:
    """Write a bundle's config.json with the root filesystem `rootfs`; return the bundle's path."""
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/probe", "own"], "cwd": "/", "env": ["A=b"]},
        "root": {"path": "rootfs"},
        **more,
    }
    if linux is not None:
        config["linux"] = linux
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_root_shows_programs_but_no_data_of_the_host(usernsctl: Program) -> None:
    done = usernsctl("run", "--", "ls", "/")
    shown = set(done.stdout.split())
    assert {"bin", "etc", "home", "opt", "root", "tmp", "usr", "var"} <= shown
    allowed = {"dev", "media", "mnt", "proc", "run", "sbin", "srv", "sys"}
    allowed |= {"lib", "lib32", "lib64", "libx32"}
    assert shown <= allowed | {"bin", "etc", "home", "opt", "root", "tmp", "usr", "var"}


def test_writes_do_not_reach_the_host(usernsctl: Program) -> None:
    name = f"usernsctl-test-{os.getpid()}"
    script = f"for d in / /root /home /tmp /var/tmp /run; do echo x > $d/{name} || exit 1; done"
    assert usernsctl("run", "--", "sh", "-c", script).returncode == 0
    assert not [d for d in ("/", "/home", "/tmp", "/var/tmp", "/run") if name in os.listdir(d)]


def test_bind_mount_is_read_only_at_the_same_path(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    script = f"cat {tmp_path}/file; echo x > {tmp_path}/new"
    done = usernsctl("run", "--bind", str(tmp_path), "--", "sh", "-c", script)
    assert done.stdout == "content\n"
    assert "Read-only file system" in done.stderr
    assert tree(tmp_path) == {"file"}


def test_writable_bind_mount_changes_the_host(usernsctl: Program, tmp_path: Path) -> None:
    script = "echo new > /data/new"
    done = usernsctl("run", "--bind", f"{tmp_path}:/data:rw", "--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new").read_text() == "new\n"
    assert (tmp_path / "new").stat().st_uid == os.geteuid()


def test_mount_point_need_not_exist_on_the_host(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    before = os.listdir("/usr")
    options = ["--bind", f"{tmp_path}:/usr/absent/deep", "--bind", f"{tmp_path}/file:/opt/absent"]
    done = usernsctl("run", *options, "--", "sh", "-c", "cat /usr/absent/deep/file /opt/absent")
    assert done.stdout == "content\n" * 2, done.stderr
    assert os.listdir("/usr") == before


def test_mount_point_below_a_symlink_is_resolved(usernsctl: Program, tmp_path: Path) -> None:
    """Check that a bind mount below /var/run is visible below /run in the sandbox.

    In the sandbox, /var/run is a symbolic link to /run, as on most systems.
    """
    (tmp_path / "file").write_text("content\n")
    options = ["--bind", f"{tmp_path}:/var/run/mine"]
    assert usernsctl("run", *options, "--", "cat", "/run/mine/file").stdout == "content\n"


def test_bind_mount_below_another_needs_a_mount_point(usernsctl: Program, tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    (outer / "here").mkdir(parents=True)
    inner.mkdir()
    (inner / "file").write_text("content\n")
    options = ["--bind", f"{outer}:/data:rw", "--bind", f"{inner}:/data/here"]
    assert usernsctl("run", *options, "--", "cat", "/data/here/file").stdout == "content\n"
    refused = usernsctl("run", *options, "--bind", f"{inner}:/data/absent", "--", "true")
    assert refused.returncode == 125
    assert str(outer / "absent") in refused.stderr
    assert tree(outer) == {"here"}


def test_command_starts_in_the_current_directory_if_mounted(
    usernsctl: Program, tmp_path: Path
) -> None:
    shown = usernsctl("run", "--bind", ".", "--", "pwd", cwd=tmp_path)
    assert shown.stdout == f"{tmp_path}\n"
    assert usernsctl("run", "--", "pwd", cwd=tmp_path).stdout == "/\n"


def test_command_does_not_start_in_a_home_in_tmp(usernsctl: Program) -> None:
    """Run in a home directory in /tmp. The sandbox's tmpfs hides it, so the command starts in /."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        env = {**os.environ, "HOME": home}
        for options in ([], ["--expose-root"]):
            done = usernsctl("run", *options, "--", "pwd", env=env, cwd=home)
            assert (done.returncode, done.stdout) == (0, "/\n"), done.stderr


def test_bind_mount_below_tmp_is_visible(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "tool").chmod(0o755)
    options = ["--bind", f"{tmp_path}:/tmp/a/b"]
    done = usernsctl("run", *options, "--wd", "/tmp/a", "--", "b/tool")
    assert done.stdout == "/tmp/a\n", done.stderr
    assert usernsctl("run", *options, "--", "ls", "/tmp", "/tmp/a").stdout.split() == [
        "/tmp:",
        "a",
        "/tmp/a:",
        "b",
    ]


def test_expose_root_shows_all_of_the_root(usernsctl: Program) -> None:
    done = usernsctl("run", "--expose-root", "--", "ls", "-A", "/")
    inside = set(done.stdout.split()) - {".usernsctl-verify"}
    assert inside >= set(os.listdir("/"))


@as_root
def test_expose_root_ignores_inaccessible_mounts(
    usernsctl: Program, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Check that --expose-root skips mounts that the caller can't access, such as containers'."""
    closed = tmp_path_factory.mktemp("closed")
    (closed / "mount").mkdir()
    closed.chmod(0o700)
    # Mount in a private mount namespace, to hide the mount from tests that run at the same time.
    user = "setpriv --reuid=65534 --regid=65534 --clear-groups"
    script = (
        f"mount -t tmpfs none {closed}/mount && cd / && "
        f"exec {user} {usernsctl.path} run --expose-root -- echo ran"
    )
    done = capture(["unshare", "--mount", "sh", "-c", script])
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr


def test_rootfs_option_runs_a_program_and_changes_no_file(usernsctl: Program, rootfs: Path) -> None:
    before = tree(rootfs)
    shown = rootfs.parent / "shown"
    shown.mkdir()
    (shown / "file").touch()
    options = ["--rootfs", str(rootfs), "--bind", f"{shown}:/shown"]
    done = usernsctl("run", *options, "--", "/bin/probe", "one", env={"PATH": "/bin:/usr/bin"})
    assert done.returncode == 3, done.stderr
    wanted = {"argument one", "PATH=/bin:/usr/bin", "HOME=/root", "uid 0, shown 0"}
    assert set(done.stdout.splitlines()) == wanted
    assert tree(rootfs) == before


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "linux",
    [
        None,
        {},
        {"namespaces": [{"type": "user"}]},
        {
            "namespaces": [{"type": "user"}],
            "uidMappings": [{"containerID": 0, "hostID": 4000000, "size": 65536}],
            "gidMappings": [{"containerID": 0, "hostID": 4000000, "size": 65536}],
        },
        {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]},
    ],
)
def test_bundles_without_usable_mappings_run(
    usernsctl: Program, tmp_path: Path, rootfs: Path, linux: dict[str, Any] | None
) -> None:
    bundle = write_bundle(tmp_path, linux)
    before = (bundle / "config.json").read_bytes(), tree(tmp_path)
    done = usernsctl("run", "--bundle", str(bundle))
    assert done.returncode == 3, done.stderr
    assert {"argument own", "A=b"} <= set(done.stdout.splitlines())
    assert ((bundle / "config.json").read_bytes(), tree(tmp_path)) == before


def test_options_override_the_bundle(usernsctl: Program, tmp_path: Path, rootfs: Path) -> None:
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "file").touch()
    mount = {"destination": "/shown", "type": "bind", "source": "shown", "options": ["bind"]}
    bundle = write_bundle(tmp_path, {}, mounts=[mount])
    before = tree(tmp_path)
    options = ["--bundle", str(bundle), "--env", "A=c", "--env", "D=e"]
    done = usernsctl("run", *options, "--", "/bin/probe", "other")
    assert done.returncode == 3, done.stderr
    lines = set(done.stdout.splitlines())
    assert {"argument other", "A=c", "D=e", "uid 0, shown 0"} <= lines
    assert not lines & {"A=b", "argument own"}
    assert tree(tmp_path) == before


def test_rlimit_hostname_and_wd_options_apply(usernsctl: Program) -> None:
    script = "ulimit -n; ulimit -Hn; hostname; pwd"
    options = ["--rlimit", "nofile=123:456", "--hostname", "somewhere", "--wd", "/usr"]
    done = usernsctl("run", *options, "--", "sh", "-c", script)
    assert done.stdout.split() == ["123", "456", "somewhere", "/usr"]


def test_missing_file_argument_suggests_a_bind_option(
    usernsctl: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "a script.py"
    script.write_text("print('it runs')")
    monkeypatch.chdir(tmp_path)
    for named, option in ((script.name, "--bind ."), (str(script), f"--bind '{script}'")):
        told = usernsctl("run", "--", "python3", named)
        assert told.returncode == 2
        first = told.stderr.splitlines()[0]
        assert first == f"usernsctl: the sandbox lacks '{named}'; to mount it, add {option}"
        shown = usernsctl("run", *shlex.split(option), "--", "python3", named)
        assert (shown.returncode, shown.stdout, shown.stderr) == (0, "it runs\n", "")


def test_no_bind_is_suggested_for_a_path_with_a_colon(usernsctl: Program, tmp_path: Path) -> None:
    """Check that --bind is not suggested for the file `mine:rw`: it would mount `mine` writable."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine:rw").write_text("a stranger's")
    told = usernsctl("run", "--", "cat", f"{tmp_path}/mine:rw")
    first = told.stderr.splitlines()[0]
    assert first == (
        f"usernsctl: the sandbox lacks {tmp_path}/mine:rw; to mount it, "
        "rename the file: --bind would misread a part of the path as DST or rw"
    )


def test_no_bind_is_suggested_for_a_cwd_with_a_colon(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "mine:rw").mkdir()
    told = usernsctl("run", "--wd", f"{tmp_path}/mine:rw", "--", "true")
    assert told.returncode == 125
    assert "remedy: rename the file:" in told.stderr


def test_suggested_bind_option_keeps_the_relative_path(
    usernsctl: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("shown")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    args = ["run", "--wd", "/usr/share"]
    told = usernsctl(*args, "--", "cat", "../file")
    option = told.stderr.splitlines()[0].partition(" add ")[2]
    assert option == "--bind ../file:/usr/file"
    assert usernsctl(*args, *shlex.split(option), "--", "cat", "../file").stdout == "shown"


def test_no_bind_is_suggested_for_other_arguments(
    usernsctl: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-n").touch()
    args = ["/usr/bin/env", "/proc/self", "-n", "no such file", "", "/"]
    usernsctl.check_output("run", "--", "echo", *args)
