"""Tests of usernsctl-exec's warning that a sandbox's writes to a volume will be lost."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SCRIPTS
from frozen import freeze

# As root, launches would also warn of volumes of the Docker daemons that tests/docker runs at the
# same time.
pytestmark = pytest.mark.unprivileged

Mounted = Callable[..., "subprocess.CompletedProcess[str]"]

ALL = ("--expose-root", "--wd", "/")
#: Mount point of the volume. It is not below /tmp, since gVisor mounts a tmpfs there.
SRV = "/srv"


@pytest.fixture
def launch_with_mounts(tmp_path: Path) -> Mounted:
    """Return a function that starts a launch in a new mount namespace, after mount commands."""

    def run(launch: Path, *commands: str) -> subprocess.CompletedProcess[str]:
        perform = shlex.join([str(SCRIPTS / "usernsctl-exec"), "--launch", str(launch)])
        script = "; ".join(["set -e", *commands, f"exec {perform} $check"])
        return subprocess.run(
            [SCRIPTS / "usernsctl-exec", "-r", "-m", "--", "sh", "-c", script],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
        )

    return run


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Create the directory that the tests mount as a volume on SRV; return it."""
    path = tmp_path / "volume"
    path.mkdir()
    (path / "file").write_text("a file\n")
    return path


def test_volume_whose_changes_are_lost_is_reported(
    launch_with_mounts: Mounted, volume: Path, tmp_path: Path
) -> None:
    command = ("sh", "-c", f"echo new >{SRV}/new && echo ran")
    launch = freeze(tmp_path / "launch", *ALL, command=command)
    done = launch_with_mounts(launch, f"mount --bind volume {SRV}")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    told = f"usernsctl-exec: warning: writes of the command to {SRV} are lost: freeze"
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in volume.iterdir()] == ["file"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "commands",
    [
        [f"mount --bind volume {SRV}", f"mount -o remount,bind,ro {SRV}"],
        ["mount --bind volume/file /etc/hosts"],
        [f"mount -t tmpfs tmpfs {SRV}"],
        [f"mount --bind volume {SRV}", "check=--check"],
        [],
    ],
)
def test_no_warning_for_read_only_volumes_files_and_checks(
    launch_with_mounts: Mounted,
    volume: Path,
    tmp_path: Path,
    commands: list[str],
) -> None:
    """Check that read-only volumes, files, tmpfs mounts and checks of a launch cause no warning."""
    done = launch_with_mounts(freeze(tmp_path / "launch", *ALL), *commands)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_warning_for_a_bind_mounted_volume(
    launch_with_mounts: Mounted, volume: Path, tmp_path: Path
) -> None:
    command = ("sh", "-c", f"echo new >{SRV}/new")
    bind = f"{SRV}:{SRV}:rw"
    launch = freeze(tmp_path / "launch", *ALL, "--bind", bind, command=command)
    done = launch_with_mounts(launch, f"mount --bind volume {SRV}")
    assert (done.returncode, done.stderr) == (0, "")
    assert (volume / "new").read_text() == "new\n"


def test_no_warning_for_an_invisible_volume(
    launch_with_mounts: Mounted, volume: Path, tmp_path: Path
) -> None:
    done = launch_with_mounts(freeze(tmp_path / "launch"), f"mount --bind volume {SRV}")
    assert (done.returncode, done.stderr) == (0, "")


def test_hostile_names_of_volumes_are_escaped(
    launch_with_mounts: Mounted, volume: Path, tmp_path: Path
) -> None:
    """Mount a volume whose name has a newline and an escape sequence, and nine with long names.

    The warning must escape the first name, and be a single line.
    """
    names = ["a\nb\x1b[31m", *(f"{number}-{'x' * 200}" for number in range(9))]
    for name in names:
        (volume / name).mkdir()
    launch = freeze(tmp_path / "launch", *ALL)
    paths = [shlex.quote(f"{SRV}/{name}") for name in names]
    binds = [f"mount --bind volume {path}" for path in (SRV, *paths)]
    done = launch_with_mounts(launch, *binds)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr
