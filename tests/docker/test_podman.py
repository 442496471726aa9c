"""Tests of Podman with the Docker tests' images and options, as root and as another user."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gvisor
import pytest
from processes import capture

from docker.conftest import PRELUDE, PRELUDE_PYTHON, USER
from docker.engine import TREE, Engine, unmount_below


@dataclass(frozen=True)
class Podman:
    """Podman with private storage.

    :ivar user: the user who runs Podman.
    :ivar directory: the user's temporary directory.
    """

    user: str
    directory: Path

    def __call__(self, *arguments: str) -> str:
        """Run a podman command in `directory` and check that it succeeds; return its output."""
        places = {"root": "storage", "runroot": "state", "tmpdir": "tmp"}
        done = capture(
            [
                *["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--init-groups"],
                *["podman", "--log-level=error", "--storage-driver=overlay"],
                # Use runc: Podman's default runtime, crun, fails on hosts that mount both cgroup
                # versions.
                *["--runtime=runc", "--cgroup-manager=cgroupfs"],
                *[f"--{option}={self.directory / name}" for option, name in places.items()],
                *arguments,
            ],
            timeout=300,
            cwd=self.directory,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.directory),
                "XDG_RUNTIME_DIR": str(self.directory),
                "PODMAN_IGNORE_CGROUPSV1_WARNING": "1",
            },
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module", params=[pytest.param("root", marks=pytest.mark.thorough), USER])
def podman(plain: Engine, request: pytest.FixtureRequest) -> Iterator[Podman]:
    """Yield a Podman into whose storage the tests' images have been loaded."""
    subprocess.run([TREE / "tools" / "user", USER, "ranges"], check=True)
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="usernsctl-podman-") as made:
        directory = Path(made)
        entry = pwd.getpwnam(request.param)
        shutil.copy(TREE / "docker" / "seccomp.json", directory)
        archive = directory / "image.tar"
        plain.must("save", f"--output={archive}", PRELUDE, PRELUDE_PYTHON)
        for path in (directory, archive):
            os.chown(path, entry.pw_uid, entry.pw_gid)
        called = Podman(request.param, directory)
        try:
            called("load", "--quiet", f"--input={archive}")
            yield called
        finally:
            called("system", "reset", "--force")
            unmount_below(directory)


def run(podman: Podman, image: str, *arguments: str, options: list[str]) -> str:
    return podman("run", "--rm", "--network=none", *options, image, *arguments)


def test_the_default_profile_of_podman_is_sufficient(podman: Podman) -> None:
    assert gvisor.BUILD in run(podman, PRELUDE, "cat", "/proc/version", options=[])


@pytest.mark.parametrize(("ids", "option"), [("one", "--"), ("all", "--map-auto")])
def test_docker_args_for_podman_work(podman: Podman, ids: str, option: str) -> None:
    words = ["docker-args", "--engine=podman", f"--ids={ids}"]
    options = run(podman, PRELUDE_PYTHON, *words, options=[]).split()
    assert "--security-opt=seccomp=seccomp.json" in options
    show = ["cat", "/proc/version"]
    command = ["run", *dict.fromkeys([option, "--"]), *show]
    assert gvisor.BUILD in run(podman, PRELUDE_PYTHON, *command, options=options)
    assert gvisor.BUILD in run(podman, PRELUDE, f"--ids={ids}", *show, options=options)


@pytest.mark.thorough
def test_an_image_with_rewritten_times_works(podman: Podman) -> None:
    """Check that a launch file works in an image whose files have the modification time 0."""
    context = podman.directory / "context"
    context.mkdir(mode=0o755)
    (context / "Containerfile").write_text(f"FROM {PRELUDE}\nLABEL rewritten=1\n")
    build = ["build", "--timestamp=0", "--squash-all", "--pull=never", "--tag=rewritten"]
    podman(*build, str(context))
    show = "stat -c %Y /usr/bin/runsc /opt/usernsctl/bin/usernsctl-watch; cat /proc/version"
    found = run(podman, "rewritten", "sh", "-c", show, options=[])
    assert found.startswith("0\n0\n")
    assert gvisor.BUILD in found


def test_the_health_check_works_with_the_profile_of_podman(podman: Podman) -> None:
    name = "usernsctl-health"
    start = ["run", "--detach", "--network=none", f"--name={name}", PRELUDE]
    podman(*start, "sh", "-c", "echo begun; exec sleep 99")
    try:
        while not podman("logs", name):
            time.sleep(0.1)
        check = ["exec", name, "/usr/local/bin/in-gvisor", "--health", "--"]
        assert gvisor.BUILD in podman(*check, "cat", "/proc/version")
    finally:
        podman("rm", "--force", "--time=0", name)
