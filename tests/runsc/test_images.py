"""Tests of images without a container engine: the recipe of docs/run.md, and invalid archives."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import Program
from processes import capture

BUSYBOX = shutil.which("busybox")


def add(
    archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644, id: int = 0
) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.uid, member.gid = len(content), mode, id, id
    archive.addfile(member, io.BytesIO(content))


def layer() -> bytes:
    """Return a tar archive of a root filesystem with a shell and a user."""
    assert BUSYBOX is not None
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        add(archive, "bin/sh", Path(BUSYBOX).read_bytes(), 0o755)
        for name in ("proc", "sys", "dev", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(directory)
        add(archive, "etc/passwd", b"root:x:0:0::/:/bin/sh\napp:x:1234:1234::/data:/bin/sh\n")
        add(archive, "etc/group", b"root:x:0:\napp:x:1234:\n")
        add(archive, "data/file", b"of app", 0o600, 1234)
    return written.getvalue()


def docker_archive(path: Path) -> None:
    """Write an image archive as `docker save` does."""
    content = layer()
    digest = hashlib.sha256(content).hexdigest()
    config = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "User": "app"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created_by": "test"}],
    }
    text = json.dumps(config).encode()
    name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": ["app:latest"], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        add(archive, f"{digest}/layer.tar", content)
        add(archive, name, text)
        add(archive, "manifest.json", json.dumps(manifest).encode())


needs_tools = pytest.mark.skipif(
    not (shutil.which("skopeo") and shutil.which("umoci") and BUSYBOX),
    reason="skopeo, umoci or busybox is not installed",
)
COPY = [
    "skopeo",
    "--insecure-policy",
    "copy",
    "-q",
    "docker-archive:image.tar",
    "oci:layout:latest",
]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    docker_archive(tmp_path / "image.tar")
    capture([*COPY], check=True)
    return tmp_path


@needs_tools
def test_an_unpacked_docker_archive_runs(usernsctl: Program, layout: Path) -> None:
    capture(["umoci", "unpack", "--rootless", "--image", "layout:latest", "bundle"], check=True)
    script = "busybox id -u; busybox stat -c %u /data/file"
    rootfs = ("--rootfs", "bundle/rootfs", "--bind", f"{BUSYBOX}:/bin/busybox")
    done = usernsctl("run", *rootfs, "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("0\n0\n", "")
    named = usernsctl("run", *rootfs, "--user", "app", "--", "sh", "-c", script)
    assert (named.stdout.split()[0], named.stderr) == ("1234", "")


@needs_tools
@pytest.mark.userns_requires("subid")
def test_file_owners_are_kept_with_map_auto(
    usernsctl: Program, prelude: Program, layout: Path
) -> None:
    as_root = ("-r", "--map-auto", "--")
    unpacked = prelude(*as_root, "umoci", "unpack", "--image", "layout:latest", "bundle")
    assert unpacked.returncode == 0, unpacked.stderr
    options = ("--map-auto", "--rootfs", "bundle/rootfs", "--bind", f"{BUSYBOX}:/bin/busybox")
    script = "busybox stat -c %u /data/file; busybox cat /data/file"
    done = usernsctl("run", *options, "--user", "app", "--", "sh", "-c", script)
    assert (done.stdout, done.stderr) == ("1234\nof app", "")
    assert prelude(*as_root, "rm", "-rf", "bundle").returncode == 0


@pytest.fixture
def erofs_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a bundle whose root filesystem is an EROFS image, as docs/run.md describes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image.tar").write_bytes(layer())
    capture(["mkfs.erofs", "-Enoinline_data", "--tar=f", "image.erofs", "image.tar"], check=True)
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    # Run `busybox ls`, because busybox is the only program in the image.
    script = "set -- $(busybox ls -ln /data/file); echo $3 $5; : > /etc/passwd"
    config = {
        "ociVersion": "1.0.0",
        "process": {"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]},
        "root": {"path": "rootfs"},
        "annotations": {
            "dev.gvisor.spec.rootfs.source": str(tmp_path / "image.erofs"),
            "dev.gvisor.spec.rootfs.type": "erofs",
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


needs_erofs = pytest.mark.skipif(
    not (shutil.which("mkfs.erofs") and BUSYBOX), reason="erofs-utils or busybox is not installed"
)


@needs_erofs
def test_runsc_keeps_file_owners_of_an_erofs_image(prelude: Program, erofs_bundle: Path) -> None:
    options = ["--ignore-cgroups", "--network=none", f"--root={erofs_bundle.parent}/state"]
    bundle = f"--bundle={erofs_bundle}"
    done = prelude("-r", "-m", "--", "runsc", *options, "run", bundle, f"erofs-{os.getpid()}")
    assert done.stdout == "1234 6\n", done.stderr
    assert "Read-only file system" in done.stderr


@needs_erofs
def test_run_refuses_annotations_of_an_erofs_image(usernsctl: Program, erofs_bundle: Path) -> None:
    for options in ((), ("--trust-bundle",)):
        done = usernsctl("run", *options, "--bundle", str(erofs_bundle))
        assert (done.returncode, done.stdout) == (125, "")
        assert "dev.gvisor.spec.rootfs.source" in done.stderr
        assert "[bundle-" in done.stderr


@pytest.mark.parametrize("name", ["image.tar", "my image.tgz"])
def test_an_archive_as_root_filesystem_is_refused(
    usernsctl: Program, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    done = usernsctl("run", "--rootfs", str(tmp_path / name), "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert "[rootfs-missing]" in done.stderr
    assert "tar -C image --no-same-owner -xf " in done.stderr
    assert "skopeo and umoci" in done.stderr
