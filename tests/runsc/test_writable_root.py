"""Tests of --writable-root: root inside may write to /etc and /usr, but only in an overlay."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest
from conftest import Program
from frozen import freeze

import usernsctl as un

WRITE = "touch /usr/bin/x /etc/x && echo written >>/etc/passwd && rm /etc/hosts && echo done"


def wheel(directory: Path) -> Path:
    """Create a wheel with a single module; return its path."""
    info = "local_package-1.dist-info"
    files = {
        "local_package.py": "print('imported')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: local-package\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""])
    path = directory / "local_package-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.each_user
def test_without_the_option_writes_to_etc_are_denied(usernsctl: Program) -> None:
    if os.geteuid() == 0:
        pytest.skip("files of root belong to root inside if root is the caller")
    done = usernsctl("run", "--", "sh", "-c", "touch /etc/x || touch /usr/x || useradd box")
    assert done.returncode != 0
    assert done.stderr.count("Permission denied") >= 3


@pytest.mark.each_user
def test_writes_stay_in_memory(usernsctl: Program) -> None:
    before = Path("/etc/passwd").read_bytes()
    done = usernsctl("run", "--writable-root", "--", "sh", "-c", WRITE)
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert Path("/etc/passwd").read_bytes() == before
    assert not Path("/usr/bin/x").exists()
    assert not Path("/etc/x").exists()


@pytest.mark.each_user
def test_useradd_creates_a_user(usernsctl: Program) -> None:
    script = "useradd -m -s /bin/sh -u 54321 newcomer && su newcomer -c 'id -un; touch ~/mine; pwd'"
    done = usernsctl("run", "--writable-root", "--wd", "/", "--", "sh", "-c", script)
    assert (done.stdout, done.returncode) == ("newcomer\n/\n", 0), done.stderr


@pytest.mark.thorough
def test_pip_installs_into_the_system(usernsctl: Program, tmp_path: Path) -> None:
    package = wheel(tmp_path)
    script = (
        f"{Path('/usr/bin/python3')} -m pip install -q --break-system-packages --no-index "
        f"--root-user-action=ignore --no-cache-dir {package} && /usr/bin/python3 -m local_package"
    )
    options = ["--writable-root", "--bind", str(package)]
    done = usernsctl("run", *options, "--", "sh", "-c", script)
    if "No module named pip" in done.stderr:
        pytest.skip("this machine's Python has no pip")
    assert done.stdout == "imported\n", done.stderr


def test_bind_mounts_keep_their_access(usernsctl: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    options = ["--writable-root", "--bind", f"{tmp_path}:/data"]
    done = usernsctl("run", *options, "--", "sh", "-c", "echo new >/data/file")
    assert "Read-only file system" in done.stderr
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.each_user
def test_files_unreadable_by_the_caller_stay_unreadable(usernsctl: Program) -> None:
    """Check that root inside can't read files that the host does not let the caller read."""
    script = "cat /etc/shadow | grep -c root; ls /root/* 2>/dev/null; exit 0"
    done = usernsctl("run", "--writable-root", "--", "sh", "-c", script)
    assert done.stdout == "0\n", done.stderr


def test_frozen_launches_and_bundles_have_a_writable_root(
    usernsctl: Program, prelude: Program, tmp_path: Path
) -> None:
    launch = freeze(tmp_path / "launch", "--writable-root", command=("sh", "-c", WRITE))
    done = prelude("--launch", launch)
    assert (done.stdout, done.stderr) == ("done\n", "")
    (tmp_path / "rootfs").mkdir()
    config = {
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs"},
        "process": {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ["--dry-run", "--json", "--writable-root", "--bundle", str(tmp_path)]
    planned = json.loads(usernsctl("run", *options).stdout)["config"]
    assert "CAP_DAC_OVERRIDE" in planned["process"]["capabilities"]["effective"]


def test_each_sandbox_of_a_host_has_its_own_writable_root() -> None:
    with un.SandboxHost(writable_root=True) as host:
        with host.start(None) as box, host.start(None) as other:
            assert box.check_output(["sh", "-c", WRITE], text=True) == "done\n"
            box.run(["useradd", "-u", "54321", "late"], check=True)
            assert box.check_output(["id", "-u"], user="late", text=True) == "54321\n"
            # Check that another sandbox of the host does not see the file: each has its own overlay
            # in memory.
            assert other.run(["test", "-e", "/etc/x"]).returncode == 1
        with host.start(["sh", "-c", WRITE], stdout=un.PIPE) as first:
            assert first.communicate(timeout=60)[0] == b"done\n"
