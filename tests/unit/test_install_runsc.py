"""Tests of docker/install-runsc, which installs runsc into an image."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from processes import capture

SCRIPT = Path(__file__).parents[2] / "docker" / "install-runsc"
FILES = {"runsc": "main", "gvisor-bin/gvisor_sentry": "sentry"}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Return a new build context with a release of runsc, as a directory and as a tarball."""
    release = tmp_path / "context" / "release"
    for name, text in FILES.items():
        path = release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {text}\n")
        path.chmod(0o775)
    with tarfile.open(tmp_path / "context" / "release.tar", "w") as file:
        file.add(release, "gvisor-1")
    return tmp_path / "context"


def sum_of(path: Path) -> str:
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    names = sorted(f"./{file.relative_to(path)}" for file in path.rglob("*") if file.is_file())
    lines = [f"{sum_of(path / name)}  {name}\n" for name in names]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def install(context: Path, name: str, checksum: str) -> subprocess.CompletedProcess[str]:
    root = context.parent / "root"
    return capture([SCRIPT, name, checksum, context, root])


@pytest.mark.parametrize("name", ["release", "release.tar"])
def test_release_is_installed_with_its_side_programs(context: Path, name: str) -> None:
    done = install(context, name, sum_of(context / name))
    assert (done.returncode, done.stderr) == (0, "")
    root = context.parent / "root"
    link = os.readlink(root / "usr/bin/runsc")
    runsc = root / link.removeprefix("/")
    assert runsc.read_text() == "#!/bin/sh\necho main\n"
    assert (runsc.parent / "gvisor-bin" / "gvisor_sentry").stat().st_mode & 0o777 == 0o755
    assert not list(root.rglob("tarball"))


@pytest.mark.parametrize("name", ["release", "release.tar"])
@pytest.mark.parametrize("checksum", ["", "0" * 64])
def test_wrong_checksum_is_refused(context: Path, name: str, checksum: str) -> None:
    done = install(context, name, checksum)
    assert done.returncode == 1
    assert ("RUNSC_SHA256" if checksum == "" else sum_of(context / name)) in done.stderr
    assert not [file for file in context.parent.glob("root/**/*") if not file.is_dir()]


def test_missing_tarball_is_refused(context: Path) -> None:
    done = install(context, "absent.tar", "0" * 64)
    assert done.returncode == 1
    assert "absent.tar is not in the build context" in done.stderr


@pytest.mark.parametrize(
    ("name", "target"),
    [("gvisor-bin/gvisor_other", "/tmp"), ("other", "/tmp/runsc"), ("gvisor-bin/x", None)],
)
def test_links_and_fifos_in_a_release_are_refused(
    context: Path, name: str, target: str | None
) -> None:
    """Check that FIFOs and links are rejected: tenants could replace the target of a link."""
    checksum = sum_of(context / "release")
    path = context / "release" / name
    os.mkfifo(path) if target is None else path.symlink_to(target)
    done = install(context, "release", checksum)
    assert done.returncode == 1
    assert f"./{name} in release is neither a file nor a directory" in done.stderr
    assert not [file for file in context.parent.glob("root/**/*") if not file.is_dir()]


@pytest.mark.parametrize("name", ["it's", 'z"/runsc', "z\\/runsc", "a b", "z\n./runsc", "z*"])
def test_file_names_that_xargs_misreads_are_refused(context: Path, name: str) -> None:
    """Check that names with quotes, blanks or backslashes are rejected: xargs interprets them."""
    path = context / "release" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("more")
    done = install(context, "release", sum_of(context / "release"))
    assert (done.returncode, "has a name with" in done.stderr) == (1, True)
    assert not [file for file in context.parent.glob("root/**/*") if not file.is_dir()]


def test_release_without_runsc_is_refused(context: Path) -> None:
    (context / "release" / "runsc").unlink()
    done = install(context, "release", sum_of(context / "release"))
    assert (done.returncode, "no runsc" in done.stderr) == (1, True)
