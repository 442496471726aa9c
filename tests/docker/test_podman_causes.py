"""Tests of `usernsctl explain` on Podman's error messages, with a small generated image."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import capture

from docker.engine import TREE
from usernsctl.explain.catalogue import get
from usernsctl.explain.explanation import explain
from usernsctl.pytest_plugin.needs import Needs

BREAK = [sys.executable, str(TREE / "tests" / "kernel" / "causes" / "broken.py")]
NOBODY = 65534


def archive(files: dict[str, bytes], owner: int = 0) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.uid = entry.gid = owner
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def image(owner: int) -> bytes:
    """Return an image in the format of `docker save`, with one file that belongs to `owner`."""
    layer = archive({"file": b""}, owner)
    digest = hashlib.sha256(layer).hexdigest()
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs})
    name = f"{hashlib.sha256(config.encode()).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["localhost/own:1"], "Layers": [f"{digest}.tar"]}]
    return archive(
        {
            name: config.encode(),
            f"{digest}.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


class Podman:
    """Podman with private storage in `directory`, run by the user nobody."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, command: str, *ways: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command that calls podman under the misconfigurations `ways` (broken.py)."""
        places = {"root": "storage", "runroot": "state", "tmpdir": "tmp"}
        options = [f"--{option}={self._directory / name}" for option, name in places.items()]
        words = [shutil.which("podman") or "", "--storage-driver=vfs", *options]
        (self._directory / "podman").write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        (self._directory / "podman").chmod(0o755)
        return capture(
            [*BREAK, *ways, "--", "sh", "-c", command],
            timeout=60,
            cwd=self._directory,
            env={
                "PATH": f"{self._directory}:{os.environ['PATH']}",
                "HOME": str(self._directory),
                "XDG_RUNTIME_DIR": str(self._directory),
                "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
            },
        )

    def causes(self, owner: int, *ways: str) -> list[str]:
        """Load an image with a file of `owner`; return the causes that explain finds on failure."""
        (self._directory / "image.tar").write_bytes(image(owner))
        done = self("podman load --quiet --input=image.tar", *ways)
        if done.returncode == 0:
            return []
        return [each.cause.id for each in explain(io.BytesIO(done.stderr.encode())).candidates]


@pytest.fixture
def podman(userns_requires: Needs) -> Iterator[Podman]:
    if "docker" not in userns_requires.must_work:
        pytest.skip("it starts Podman, which has not been asked for: make docker")
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-podman-") as made:
        os.chown(made, NOBODY, NOBODY)
        called = Podman(Path(made))
        yield called
        # Also stop Podman's pause process (system migrate), which would keep the user namespace
        # alive.
        called("podman system reset --force; podman system migrate")


def test_explain_finds_a_file_with_an_unmapped_owner(podman: Podman) -> None:
    assert "image-id-unmapped" in podman.causes(172761424)
    assert podman.causes(42) == []


def test_explain_finds_a_namespace_from_before_the_ranges(podman: Podman) -> None:
    assert podman.causes(42, "no-ranges")[0] == "no-subordinate-range"
    assert "kept-namespace-outdated" in podman.causes(42)
    podman(get("kept-namespace-outdated").remedies["host"])
    assert podman.causes(42) == []
