"""Tests of rootless Podman with runsc as its runtime, also in a namespace created by usernsctl."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import gvisor
import pytest
from conftest import SCRIPTS
from processes import capture

# Script that runs runsc as Podman's OCI runtime, as in docs/clients.md.
RUNTIME = """#!/bin/sh
exec {runsc} --root {state} --ignore-cgroups --network=none "$@"
"""
NAMESPACE = [str(SCRIPTS / "usernsctl-exec"), "-r", "--map-auto", "-m", "--"]


@pytest.mark.userns_requires("subid")
@pytest.mark.parametrize("prefix", [[], NAMESPACE], ids=["alone", "in a namespace"])
def test_podman_runs_containers_in_gvisor(prefix: list[str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    runtime = tmp_path / "bin" / "runsc"
    runtime.parent.mkdir()
    runtime.write_text(RUNTIME.format(runsc=gvisor.path(), state=tmp_path / "containers"))
    runtime.chmod(0o755)
    stores = {"root": "storage", "runroot": "state", "tmpdir": "tmp"}
    podman = [
        *prefix,
        *("podman", "--log-level=error", "--storage-driver=vfs", "--cgroup-manager=cgroupfs"),
        *(f"--{option}={tmp_path / name}" for option, name in stores.items()),
        f"--runtime={runtime}",
    ]
    variables = {
        "HOME": str(tmp_path),
        "PATH": os.environ["PATH"],
        "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
        "XDG_RUNTIME_DIR": str(tmp_path),
    }

    def call(*words: str) -> str:
        done = capture([*podman, *words], env=variables, timeout=100)
        assert done.returncode == 0, done.stderr
        return done.stdout

    container = ["--name=one", "--network=none", "--rootfs", str(root), "/bin/busybox"]
    try:
        assert gvisor.BUILD in call("run", "--rm", *container, "cat", "/proc/version")
        call("run", "--detach", *container, "sleep", "1000")
        assert gvisor.BUILD in call("exec", "one", "/bin/busybox", "cat", "/proc/version")
    finally:
        call("rm", "--force", "--time=0", "--ignore", "one")
        # Stop Podman's pause process, which would keep its user namespace alive after the test.
        call("system", "migrate")
