"""Tests of full filesystems: errors name the file, the cause and a remedy, and no file is left."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from callers import as_root
from conftest import Program
from processes import capture, causes_in, check_output

import usernsctl as un

pytestmark = as_root

# Options of mount(8) for a small filesystem, each with a shell script that fills the filesystem.
BLOCKS = ("size=64k", "cat /dev/zero >used")
INODES = ("nr_inodes=2", "touch used another")


@pytest.fixture(params=[BLOCKS, INODES], ids=["blocks", "inodes"])
def full(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield the mount point of a filesystem in which the file "used" uses all blocks or inodes."""
    made = tmp_path / "full"
    made.mkdir()
    options, script = request.param
    check_output(["mount", "-t", "tmpfs", "-o", f"mode=0700,{options}", "none", made])
    assert "No space left on device" in capture(["sh", "-c", script], cwd=made).stderr
    yield made
    check_output(["umount", "--lazy", made])


only_blocks = pytest.mark.parametrize("full", [BLOCKS], indirect=True, ids=["blocks"])


def files(directory: Path) -> list[str]:
    """Return the names of all files in a tree that are not directories."""
    return sorted(name for _, _, names in os.walk(directory) for name in names)


def check_refusal(done: subprocess.CompletedProcess[str], full: Path, named: str) -> None:
    """Check that a command failed because the filesystem is full, and left no file.

    :param named: the beginning of the path of a file in `full`, relative to `full`, that the
        message must name.
    """
    assert (done.returncode, done.stdout) == (125, "")
    assert f"{full}/{named}" in done.stderr
    assert "no space left on device" in done.stderr.lower()
    assert causes_in(done.stderr) == ["disk-full"]
    assert "\n  remedy: delete files there" in done.stderr
    assert files(full) == ["used"]


def test_run_names_a_full_state_directory(usernsctl: Program, full: Path) -> None:
    done = usernsctl("run", "--root", full, "--", "echo", "ran")
    check_refusal(done, full, "usernsctl-")


@pytest.mark.parametrize("full", [INODES], indirect=True, ids=["inodes"])
@pytest.mark.parametrize(("option", "name"), [("--root", "new"), ("--debug-log", "new")])
def test_run_names_a_directory_that_it_can_not_create(
    usernsctl: Program, full: Path, option: str, name: str
) -> None:
    done = usernsctl("run", option, full / name, "--", "echo", "ran")
    check_refusal(done, full, name)


@pytest.mark.parametrize("full", [INODES], indirect=True, ids=["inodes"])
def test_run_names_a_debug_log_that_it_can_not_create(usernsctl: Program, full: Path) -> None:
    done = usernsctl("run", "--debug-log", full, "--", "echo", "ran")
    check_refusal(done, full, "runsc.log.")
    with (
        un.SandboxHost(debug_log=full) as host,
        pytest.raises(un.NamespaceError) as caught,
        host.start(["true"]),
    ):
        pass
    assert str(full) in str(caught.value)
    assert caught.value.cause == "disk-full"


@only_blocks
def test_run_says_that_the_exit_status_could_not_be_logged(
    usernsctl: Program, full: Path, tmp_path: Path
) -> None:
    result = tmp_path / "result"
    for status in (0, 2):
        options = ["--debug-log", full, "--result", result]
        done = usernsctl("run", *options, "--", "sh", "-c", f"echo ran; exit {status}")
        assert (done.returncode, done.stdout) == (125, "ran\n")
        assert json.loads(result.read_text())["reason"] == "sandbox-ended"
        assert done.stderr.startswith(
            "usernsctl: runsc: the command's exit status could not be logged: --debug-log is on a "
            "full disk\n"
        )
        assert causes_in(done.stderr) == ["disk-full"]


@pytest.mark.parametrize("full", [INODES], indirect=True, ids=["inodes"])
def test_run_names_a_result_that_it_can_not_create(usernsctl: Program, full: Path) -> None:
    done = usernsctl("run", "--result", full / "result", "--", "echo", "ran")
    check_refusal(done, full, "result: ")


@only_blocks
def test_run_names_a_result_that_it_can_not_write(usernsctl: Program, full: Path) -> None:
    done = usernsctl("run", "--result", full / "result", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (125, "ran\n")
    done.stdout = ""
    check_refusal(done, full, "result: ")


def test_run_needs_no_temporary_directory(usernsctl: Program, full: Path) -> None:
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(full), "XDG_RUNTIME_DIR": str(full)}
    done = usernsctl("run", "--", "echo", "ran", env=env)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ran\n", "")


def test_freeze_names_a_full_filesystem(usernsctl: Program, full: Path) -> None:
    done = usernsctl("freeze", "-o", full / "launch", "--", "echo", "ran")
    check_refusal(done, full, "launch: ")


def test_ns_create_names_a_full_state_directory(
    usernsctl: Program, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(full))
    check_refusal(usernsctl("ns", "create", "web"), full, "usernsctl")


def test_detached_sandboxes_name_a_full_state_directory(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(full))
    with (
        un.SandboxHost() as host,
        pytest.raises(un.UsernsError) as caught,
        host.start(["sleep", "60"], detach=True),
    ):
        pass
    assert f"{full}/usernsctl" in str(caught.value)
    assert caught.value.cause == "disk-full"
    assert files(full) == ["used"]


def test_template_create_names_a_full_directory(
    usernsctl: Program, full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(full))
    script = ["--ready", "R", "web", "--", "sh", "-c", "echo R; read line"]
    check_refusal(usernsctl("template", "create", *script), full, "usernsctl/templates")


@pytest.fixture(scope="module")
def template() -> Iterator[un.Template]:
    """Yield a template of no command."""
    with un.SandboxHost() as host, host.template(None) as made:
        yield made


def test_a_template_that_can_not_be_saved_leaves_no_directory(
    template: un.Template, full: Path
) -> None:
    with pytest.raises(un.NamespaceError) as caught:
        template.save(full / "new")
    assert caught.value.cause == "disk-full"
    assert os.listdir(full) == ["used"]


@only_blocks
def test_a_template_that_can_not_be_saved_leaves_the_given_directory_empty(
    template: un.Template, full: Path
) -> None:
    (full / "given").mkdir(mode=0o700)
    with pytest.raises(un.NamespaceError):
        template.save(full / "given")
    assert sorted(os.listdir(full)) == ["given", "used"]
    assert os.listdir(full / "given") == []


@pytest.mark.parametrize("free", [8, 400])
def test_a_checkpoint_that_does_not_fit_the_tmpfs_has_the_cause(free: int) -> None:
    """Check the cause if `free` KiB are left: runsc reports ENOSPC, or fails in another way."""

    def shrink(box: un.Sandbox) -> None:
        # Wait for the shell, because the checkpoint of a shell that has not started is smaller.
        while box.run(["test", "-e", "/tmp/ready"]).returncode:
            time.sleep(0.01)
        space = os.fstatvfs(prepared.directory)
        size = ((space.f_blocks - space.f_bfree) * space.f_bsize >> 10) + free
        place = prepared.prepared.scratch
        prepared.namespace.run(["mount", "-o", f"remount,size={size}k", place], check=True)

    with un.SandboxHost() as host:
        prepared = host.prepared
        with pytest.raises(un.RunscError) as caught:
            host.template(["sh", "-c", ">/tmp/ready; read line"], ready=shrink)
        error = caught.value
        assert (error.step, error.errno, error.cause) == ("template", errno.ENOSPC, "disk-full")
        assert str(error).startswith("template: the tmpfs for checkpoints is full: runsc ")
        assert error.remedy is not None
        assert "close other templates of the SandboxHost" in error.remedy


def test_copies_out_of_a_sandbox_name_a_full_filesystem(full: Path) -> None:
    with un.SandboxHost() as host, host.start(None) as box:
        box.write_file("/tmp/large", b"x" * (1 << 20))
        with pytest.raises(un.SandboxFileError) as caught:
            box.get("/tmp/large", full / "copy")
    error = caught.value
    assert (error.step, error.errno, error.cause) == ("outside", errno.ENOSPC, "disk-full")
    assert error.filename == str(full / "copy")
    assert files(full) == ["used"]


@only_blocks
def test_copies_into_a_full_filesystem_name_the_path_inside(full: Path) -> None:
    with (
        un.SandboxHost(binds=[f"{full}:/data:rw"]) as host,
        host.start(None) as box,
        pytest.raises(un.SandboxFileError) as caught,
    ):
        box.write_file("/data/file", b"x" * 4096)
    error = caught.value
    assert (error.step, error.errno, error.cause) == ("inside", errno.ENOSPC, "disk-full")
    assert error.filename == "/data/file"
    assert files(full) == ["used"]
